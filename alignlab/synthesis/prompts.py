"""The prompts that a policy answers, with the good answers that the data itself has for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from alignlab.data.conversations import prompt_key
from alignlab.data.filters import read_split
from alignlab.data.rows import Completion, Labelled, Prompt
from alignlab.data.sources.base import Source
from alignlab.evaluation.questions import read_questions


@dataclass(frozen=True)
class OwnAnswer:
    """An answer of the data. `ended` is False if a length limit cut it off."""

    text: str
    ended: bool


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt with the good answers of the data; there may be none."""

    prompt: Prompt
    own: tuple[OwnAnswer, ...]


@dataclass(frozen=True)
class Prompts:
    """Distinct prompts in the order of the data.

    found:    how many distinct prompts the data has, before the number is limited.
    left_out: what was left out, by reason.
    """

    rows: list[AskedPrompt]
    found: int
    left_out: Counter[str]


def prompts_of_data(source: Source, most: int) -> Prompts:
    """The first `most` distinct prompts of the training rows (0: all)."""
    rows: Iterable[Completion | Labelled]
    if source.world is None and "pairs" in source.shapes:
        pairs = read_split(lambda split: source.pairs(split, None), "train", source.drop)
        rows, dropped = [pair.preferred() for pair in pairs.rows], pairs.dropped
    elif "labelled" in source.shapes and source.world is None:
        labelled = read_split(lambda split: source.labelled(split, None), "train", source.drop)
        rows, dropped = labelled.rows, labelled.dropped
    else:
        completions = read_split(source.completions, "train", source.drop)
        rows, dropped = completions.rows, completions.dropped
    return _distinct(rows, most, Counter({f"rows of the data: {reason}": n for reason, n in dropped.items()}))


def prompts_of_file(path: str, most: int) -> Prompts:
    """The first `most` distinct prompts of a file (0: all). Raises DataError with every row that can't be used."""
    questions = read_questions(path)
    seconds = sum(bool(question.second) for question in questions)
    left_out = Counter({"second turns of prompts": seconds} if seconds else {})
    return _distinct([Completion(q.prompt, q.chosen, q.ended) for q in questions], most, left_out)


def _distinct(rows: Iterable[Completion | Labelled], most: int, left_out: Counter[str]) -> Prompts:
    """Each prompt once, with its distinct good answers. Prompts that differ only in white space count as one."""
    prompts: dict[str, Prompt] = {}
    own: dict[str, dict[str, OwnAnswer]] = {}
    for row in rows:
        key = prompt_key(row.prompt)
        prompts.setdefault(key, row.prompt)
        answers = own.setdefault(key, {})
        if isinstance(row, Labelled) and not row.desirable:
            left_out["bad answers of the data"] += 1
        elif row.completion.strip():
            answers.setdefault(row.completion, OwnAnswer(row.completion, row.ended))
    asked = [AskedPrompt(prompt, tuple(own[key].values())) for key, prompt in prompts.items()]
    return Prompts(asked[: most or None], len(asked), left_out)
