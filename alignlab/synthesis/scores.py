"""Scores of sampled answers by a judge: ratings of single answers, or results of comparisons."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from alignlab.data.rows import Prompt
from alignlab.data.template import prompt_text
from alignlab.judges.base import Answer, Comparison, Judge, Judgement, JudgingCost, Score, ScoreJudge, Verdict
from alignlab.judges.cache import Store
from alignlab.progress import Progress
from alignlab.spelling import counted
from alignlab.synthesis.samples import SampledAnswer

log = logging.getLogger(__name__)

# How many answers a judge that scores gets at a time. Their scores are then stored.
_AT_ONCE = 16

# A prompt with the answers to score.
Answered = tuple[Prompt, Sequence[SampledAnswer]]


@dataclass(frozen=True)
class Scores:
    """The scores of all answers; NaN for an answer without one.

    unjudged: number of answers or comparisons without a reply. The same command asks for them again.
    """

    table: list[list[float]]
    unjudged: int = 0
    cost: JudgingCost = field(default_factory=JudgingCost)


def rated(judge: Judge, asked: Sequence[Answered], kept: Store, replies: Path, progress: Progress) -> Scores:
    """The judge's rating of each answer.

    kept:    store of the scores of a judge that is a function of the answer. Other judges store their replies.
    replies: folder for the replies of other judges.
    """
    if isinstance(judge, ScoreJudge):
        return Scores(_stored_scores(judge, asked, kept, progress))
    rows = [answer for i, one in enumerate(asked) for answer in _answers(i, *one)]
    log.info("asking the judge for %s", counted(len(rows), "rating"))
    ratings, cost = judge.with_progress(progress).rate(rows, replies)
    found = iter(ratings)
    table = [[next(found).score for _ in answers] for _, answers in asked]
    return Scores(table, sum(not rating.judged for rating in ratings), cost)


def compared(judge: Judge, asked: Sequence[Answered], replies: Path, progress: Progress) -> Scores:
    """The mean result of each answer's comparisons with the other answers to its prompt: 1 won, 1/2 tied, 0 lost.

    If a comparison has no result, all answers to its prompt have no score.
    replies: folder for the judge's replies.
    """
    rows = [row for i, one in enumerate(asked) for row in _comparisons(i, *one)]
    log.info("asking the judge for %s", counted(len(rows), "comparison"))
    judged = judge.with_progress(progress).compare(rows, replies)
    by_id: dict[str, list[Judgement]] = {row.id: [] for row in rows}
    for judgement in judged.judgements:
        by_id[judgement.id].append(judgement)
    result = {id_: _result(found, judged.disagreement) for id_, found in by_id.items()}
    unjudged = sum(any(j.verdict is Verdict.UNJUDGED for j in found) for found in by_id.values())
    table = [_means(i, len(answers), result) for i, (_, answers) in enumerate(asked)]
    return Scores(table, unjudged, judged.bill)


def _stored_scores(judge: ScoreJudge, asked: Sequence[Answered], kept: Store, progress: Progress) -> list[list[float]]:
    """Scores of a judge that is a function of the answer. They are computed once, and stored for each prompt."""
    fingerprint = judge.fingerprint()
    requests = [_request(fingerprint, *one) for one in asked]
    stored = {
        i: kept.get(request, partial(_are_scores, len(answers)))
        for i, (request, (_, answers)) in enumerate(zip(requests, asked, strict=True))
    }
    found = {i: reply["scores"] for i, reply in stored.items() if reply is not None}
    waiting = [i for i in range(len(asked)) if i not in found]
    score: Score | None = None
    for batch in progress(list(_batches(waiting, asked)), "judging"):
        score = score or judge.ready()
        scores = iter(score([answer for i in batch for answer in _answers(i, *asked[i])]))
        for i in batch:
            found[i] = [float(next(scores)) for _ in asked[i][1]]
            kept.put(requests[i], {"scores": found[i]})
    return [list(found[i]) for i in range(len(asked))]


def _are_scores(number: int, reply: Mapping[str, Any]) -> bool:
    """Whether a stored reply holds this number of scores."""
    scores = reply.get("scores")
    return isinstance(scores, list) and len(scores) == number and all(type(score) is float for score in scores)


def _batches(waiting: Sequence[int], asked: Sequence[Answered]) -> Iterator[list[int]]:
    """Places of prompts in groups that have about `_AT_ONCE` answers."""
    batch: list[int] = []
    for i in waiting:
        batch.append(i)
        if sum(len(asked[place][1]) for place in batch) >= _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _request(fingerprint: str, prompt: Prompt, answers: Sequence[SampledAnswer]) -> dict[str, Any]:
    return {"judge": fingerprint, "prompt": prompt, "answers": [[answer.text, answer.ended] for answer in answers]}


def _answers(place: int, prompt: Prompt, answers: Sequence[SampledAnswer]) -> Iterator[Answer]:
    for number, answer in enumerate(answers):
        yield Answer(
            f"{place}-{number}",
            (prompt_text(prompt),),
            (answer.text,),
            conversation=_turns(prompt),
            ended=answer.ended,
        )


def _comparisons(place: int, prompt: Prompt, answers: Sequence[SampledAnswer]) -> Iterator[Comparison]:
    for (a, first), (b, second) in combinations(enumerate(answers), 2):
        yield Comparison(
            f"{place}-{a}-{b}", (prompt_text(prompt),), (first.text,), (second.text,), conversation=_turns(prompt)
        )


def _turns(prompt: Prompt) -> Prompt | None:
    """The prompt's messages; None if it is one text."""
    return None if isinstance(prompt, str) else prompt


def _result(found: Sequence[Judgement], disagreement: str) -> float:
    """The score of the first answer over both orders; NaN if an order has no valid verdict.

    disagreement: how two orders with different verdicts count, as in `Judged`.
    """
    if disagreement == "tie" and len({judgement.verdict for judgement in found}) > 1:
        valid = all(not math.isnan(judgement.score) for judgement in found)
        return 0.5 if valid else math.nan
    return sum(judgement.score for judgement in found) / len(found)


def _means(place: int, count: int, result: dict[str, float]) -> list[float]:
    won: list[list[float]] = [[] for _ in range(count)]
    for a, b in combinations(range(count), 2):
        score = result[f"{place}-{a}-{b}"]
        won[a].append(score)
        won[b].append(1 - score)
    means = [sum(scores) / len(scores) for scores in won]
    return means if not any(math.isnan(mean) for mean in means) else [math.nan] * count
