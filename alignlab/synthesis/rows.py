"""Rows of preference data from scored answers: pairs, labelled answers or rankings. What is left out is counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from statistics import median
from typing import Any

from alignlab.data.rows import Prompt
from alignlab.synthesis.prompts import AskedPrompt
from alignlab.synthesis.samples import SampledAnswer
from alignlab.synthesis.settings import Synthesis

Row = dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """An answer with its score; NaN if it has none."""

    text: str
    ended: bool
    score: float


def distinct(answers: Iterable[SampledAnswer], left_out: Counter[str]) -> list[SampledAnswer]:
    """The answers that rows can hold: not empty, each text once. The others are counted in `left_out`."""
    kept: dict[str, SampledAnswer] = {}
    for answer in answers:
        if not answer.text.strip():
            left_out["empty samples"] += 1
        elif answer.text in kept:
            left_out["samples that repeat another"] += 1
        else:
            kept[answer.text] = answer
    return list(kept.values())


def judged_rows(
    prompt: Prompt, answers: Sequence[Scored], how: Synthesis, tie_margin: float, left_out: Counter[str]
) -> Iterator[Row]:
    """Rows of the scored answers to one prompt.

    tie_margin: answers whose scores differ by at most this much are tied.
    """
    scored = [answer for answer in answers if not math.isnan(answer.score)]
    _count(left_out, "samples without a score", len(answers) - len(scored))
    single = how.form == "labels" and how.threshold is not None
    if len(scored) < (1 if single else 2):
        left_out["prompts with too few different answers"] += 1
    elif how.form == "pairs":
        yield from _pairs(prompt, scored, how, tie_margin, left_out)
    elif how.form == "labels":
        yield from _labels(prompt, scored, how.threshold, left_out)
    elif len({answer.score for answer in scored}) == 1:
        left_out["prompts with equal scores"] += 1
    else:
        yield _ranking(prompt, scored)


def rows_against_data(
    asked: AskedPrompt, answers: Sequence[SampledAnswer], how: Synthesis, left_out: Counter[str]
) -> Iterator[Row]:
    """Rows in which the data's own answers are better than the samples. They have no scores."""
    known = {answer.text for answer in asked.own}
    good = [Scored(answer.text, answer.ended, 1.0) for answer in asked.own]
    bad = [Scored(answer.text, answer.ended, 0.0) for answer in answers if answer.text not in known]
    _count(left_out, "samples that equal an answer of the data", len(answers) - len(bad))
    if not good:
        left_out["prompts without a good answer in the data"] += 1
    elif not bad:
        left_out["prompts with too few different answers"] += 1
    elif how.form == "pairs":
        for better, worse in list(product(good, bad))[: None if how.pairs == "all" else 1]:
            yield _pair(prompt=asked.prompt, better=better, worse=worse)
    elif how.form == "labels":
        for answer in (*good, *bad):
            yield _label(asked.prompt, answer, answer.score > 0)
    else:
        yield _ranking(asked.prompt, [*good, *bad])


def _pairs(
    prompt: Prompt, answers: Sequence[Scored], how: Synthesis, tie_margin: float, left_out: Counter[str]
) -> Iterator[Row]:
    best_first = sorted(answers, key=lambda answer: -answer.score)
    found = list(combinations(best_first, 2)) if how.pairs == "all" else [(best_first[0], best_first[-1])]
    for better, worse in found:
        margin = better.score - worse.score
        if margin <= tie_margin:
            left_out["tied pairs"] += 1
        elif margin < how.min_margin:
            left_out["pairs with a margin below synthesis.min_margin"] += 1
        else:
            scores = {"margin": margin, "score_chosen": better.score, "score_rejected": worse.score}
            yield _pair(prompt, better, worse) | scores


def _labels(
    prompt: Prompt, answers: Sequence[Scored], threshold: float | None, left_out: Counter[str]
) -> Iterator[Row]:
    middle = median(answer.score for answer in answers)
    for answer in answers:
        if threshold is None and answer.score == middle:
            left_out["samples at the median score of their prompt"] += 1
        else:
            good = answer.score > middle if threshold is None else answer.score >= threshold
            yield _label(prompt, answer, good) | {"score": answer.score}


def _pair(prompt: Prompt, better: Scored, worse: Scored) -> Row:
    return {
        "prompt": prompt,
        "chosen": better.text,
        "rejected": worse.text,
        "chosen_ended": better.ended,
        "rejected_ended": worse.ended,
    }


def _label(prompt: Prompt, answer: Scored, good: bool) -> Row:
    return {"prompt": prompt, "completion": answer.text, "label": good, "ended": answer.ended}


def _ranking(prompt: Prompt, answers: Sequence[Scored]) -> Row:
    return {
        "prompt": prompt,
        "completions": [answer.text for answer in answers],
        "grades": [answer.score for answer in answers],
        "ended": [answer.ended for answer in answers],
    }


def _count(left_out: Counter[str], reason: str, number: int) -> None:
    if number:
        left_out[reason] += number
