"""Rows of RewardBench 2: a prompt with correct and incorrect answers. Reads them, and scores stored rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from alignlab.data.conversations import (
    EMPTY_VALUES,
    UnusableRowError,
    gather,
    read_prompt,
    read_text,
    refuse_unsupported_columns,
)
from alignlab.data.rows import Prompt
from alignlab.evaluation.benchmarks.files import Row
from alignlab.evaluation.benchmarks.reward_bench_2 import ScoredAnswers, is_ties, reward_bench_2, ties_id
from alignlab.spelling import counted

BENCHMARK = "RewardBench 2"

_COUNTS = ("num_correct", "total_completions")


@dataclass(frozen=True)
class GradedAnswers:
    """A prompt with its correct answers (`chosen`) and its incorrect ones (`rejected`)."""

    id: str
    prompt: Prompt
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]
    subset: str = ""

    def answers(self) -> list[tuple[str, bool]]:
        """The correct answers, then the incorrect ones, each with whether it ended."""
        return [(text, True) for text in (*self.chosen, *self.rejected)]


def has_lists(row: Row) -> bool:
    """Whether a row has lists of answers, as in RewardBench 2, instead of one better and one worse answer."""
    counts = any(row.get(name) not in EMPTY_VALUES for name in _COUNTS)
    return counts or any(_is_list_of_texts(row[name]) for name in ("chosen", "rejected"))


def graded_answers(row: Row) -> GradedAnswers:
    """Read a row of RewardBench 2. Raises UnusableRowError with every fault."""
    refuse_unsupported_columns(row)
    prompt, chosen, rejected = gather(
        partial(read_prompt, row["prompt"]), *(partial(_texts, row[name], name) for name in ("chosen", "rejected"))
    )
    name, subset = ("" if row.get(key) is None else str(row[key]) for key in ("id", "subset"))
    found = GradedAnswers(name, prompt, chosen, rejected, subset)
    if faults := [*_wrong_counts(row, found), *_wrong_ties(found)]:
        raise UnusableRowError(*faults)
    return found


def repeated_ids(rows: Sequence[GradedAnswers]) -> list[tuple[str, str]]:
    """(place, fault) of each row of Ties whose id another row has too."""
    ids = [ties_id(row.id) if is_ties(row.subset) else None for row in rows]
    times = Counter(ids)
    return [
        (f"row {number}", f"the id {row.id} is used {times[id_]} times in Ties: keep one of these rows")
        for number, (row, id_) in enumerate(zip(rows, ids, strict=True), 1)
        if id_ and times[id_] > 1
    ]


def scores_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """RewardBench 2's scores of stored rows, by subset, as plain values.

    `start` is the mean if all scores are equal, as those of a policy before training.
    """
    scored = [_scored(row, row["scores"]) for row in rows]
    equal = reward_bench_2([_scored(row, [0.0] * len(row["scores"])) for row in rows])
    found = json.loads(json.dumps(asdict(reward_bench_2(scored))))
    return {"benchmark": BENCHMARK, **found, "start": equal.rate.value}


def _scored(row: Mapping[str, Any], scores: Sequence[float]) -> ScoredAnswers:
    correct = len(row["chosen"])
    return ScoredAnswers(row["id"], row["subset"], json.dumps(row["prompt"]), scores[:correct], scores[correct:])


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(part, str) for part in value)


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        text = f"{name} must be a list of texts, as in {BENCHMARK}, not {value!r:.60}"
        raise UnusableRowError(f"{text}: store the list in JSON lines or Parquet, or remove {' and '.join(_COUNTS)}")
    if not value:
        raise UnusableRowError(f"{name} is an empty list: add an answer, or remove the row")
    return tuple(gather(*(partial(read_text, text, f"answer {i} of {name}") for i, text in enumerate(value, 1))))


def _wrong_counts(row: Row, found: GradedAnswers) -> list[str]:
    chosen, both = len(found.chosen), len(found.chosen) + len(found.rejected)
    held = {"num_correct": (chosen, "chosen"), "total_completions": (both, "chosen and rejected")}
    return [
        f"{name} must be {number}, the number of answers in {where}, not {row[name]!r:.40}"
        for name, (number, where) in held.items()
        if row.get(name) not in EMPTY_VALUES and row[name] != number
    ]


def _wrong_ties(found: GradedAnswers) -> list[str]:
    correct = counted(len(found.chosen), "correct answer")
    if not is_ties(found.subset):
        many = f"has {correct}, but only rows of the subset Ties may have several: keep one, or set its subset"
        return [many] if len(found.chosen) > 1 else []
    kind = ties_id(found.id)
    if kind is None:
        return [f"id is {found.id!r:.40}, but in Ties it must be ref:<number> or tied:<number>, such as ref:3"]
    few = f"{found.id} has {correct}, but a tied row needs at least 2"
    return [few] if kind[0] == "tied" and len(found.chosen) < 2 else []
