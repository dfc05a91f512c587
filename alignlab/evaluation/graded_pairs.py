"""Answers that are known to be better or worse: reads them, stores them with their scores, computes the accuracy.

The rows are pairs, or lists of answers as in RewardBench 2 (graded_answers.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from alignlab.data.conversations import gather, read_boolean, read_row, refuse_unsupported_columns
from alignlab.data.files import unusable_rows
from alignlab.data.rows import Prompt
from alignlab.errors import DamagedError, DataError
from alignlab.evaluation.benchmarks.files import Row, parse_rows, read_rows, write_rows
from alignlab.evaluation.benchmarks.reward_bench import Accuracy, reward_bench
from alignlab.evaluation.graded_answers import (
    BENCHMARK,
    GradedAnswers,
    graded_answers,
    has_lists,
    repeated_ids,
    scores_of,
)
from alignlab.integrity import json_digest

PAIRS = "pairs.jsonl"
_NEEDED = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class GradedPair:
    """A prompt with a better and a worse answer.

    subset:  subset of RewardBench; empty if there is none.
    *_ended: False if a length limit cut the answer off.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    subset: str = ""
    chosen_ended: bool = True
    rejected_ended: bool = True

    def answers(self) -> list[tuple[str, bool]]:
        """The better answer and the worse one, each with whether it ended."""
        return [(self.chosen, self.chosen_ended), (self.rejected, self.rejected_ended)]


Graded = GradedPair | GradedAnswers


def read_graded(path: str) -> list[GradedPair] | list[GradedAnswers]:
    """Read rows with prompt, chosen and rejected, and optionally subset.

    - If chosen and rejected are one answer each, the rows are pairs. They may also have *_ended.
    - If they are lists of texts, the rows are RewardBench 2's. They may also have id, num_correct, total_completions.

    Raises DataError with every row that can't be used, and if a file has rows of both kinds.
    """
    rows = parse_rows(path, lambda row: graded_answers(row) if has_lists(row) else _pair(row), *_NEEDED)
    pairs = [row for row in rows if isinstance(row, GradedPair)]
    lists = [row for row in rows if isinstance(row, GradedAnswers)]
    if pairs and lists:
        first = next(i for i, row in enumerate(rows, 1) if type(row) is not type(rows[0]))
        kinds = f"{len(pairs)} with one answer each in chosen and rejected, {len(lists)} with lists ({BENCHMARK})"
        raise DataError(f"{path} has rows of two kinds: {kinds}; row {first} differs from row 1\n  make it two files")
    if faults := repeated_ids(lists):
        raise unusable_rows(path, faults)
    return pairs or lists


def _pair(row: Row) -> GradedPair:
    refuse_unsupported_columns(row)
    prompt, (chosen, rejected) = read_row(row, {name: row[name] for name in ("chosen", "rejected")})
    ended = gather(*(partial(_ended, row, f"{name}_ended") for name in ("chosen", "rejected")))
    subset = row.get("subset")
    return GradedPair(prompt, chosen, rejected, "" if subset is None else str(subset), *ended)


def _ended(row: Row, name: str) -> bool:
    """The value of the row, or True if it is missing, null or an empty cell."""
    value = row.get(name)
    return True if value in (None, "") else read_boolean(value, name)


def store_graded(folder: Path, graded: Sequence[Graded], scores: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Store every row with the scores of its answers. Returns `accuracy_of` the stored rows."""
    rows = [_stored(row, numbers) for row, numbers in zip(graded, scores, strict=True)]
    write_rows(folder / PAIRS, [{**row, "sha256": json_digest(rows)} for row in rows])
    return accuracy_of(rows)


def _stored(row: Graded, scores: Sequence[float]) -> dict[str, Any]:
    if isinstance(row, GradedAnswers):
        return {**asdict(row), "scores": list(scores)}
    chosen, rejected = scores
    return {**asdict(row), "chosen_score": chosen, "rejected_score": rejected}


def read_stored(folder: Path) -> list[dict[str, Any]]:
    """The rows that `store_graded` wrote. Each row holds the checksum of all rows; older versions wrote none.

    Raises DamagedError if the file changed since it was written.
    """
    file = folder / PAIRS
    try:
        rows = read_rows(file, *_NEEDED)
    except DataError as error:
        raise DamagedError(file, f"is damaged ({error})") from error
    seals = {str(row.pop("sha256", "")) for row in rows}
    if seals != {""} and seals != {json_digest(rows)}:
        raise DamagedError(file, "is damaged, or was changed by hand (its checksum is wrong)")
    if any("scores" not in row and not {"chosen_score", "rejected_score"} <= row.keys() for row in rows):
        raise DamagedError(file, "is damaged (a row has no scores)")
    return rows


def accuracy_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy of stored rows with its interval as plain values: RewardBench's for pairs, else RewardBench 2's."""
    if rows and "scores" in rows[0]:
        return scores_of(rows)
    result = reward_bench(
        [row["chosen_score"] for row in rows],
        [row["rejected_score"] for row in rows],
        [row["subset"] for row in rows],
        prompts=[json.dumps(row["prompt"]) for row in rows],
    )
    subsets = {name: _plain(accuracy) for name, accuracy in result.subsets.items() if name}
    return {**_plain(result.overall), "subsets": subsets, "sections": result.sections, "score": result.score}


def _plain(accuracy: Accuracy) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(accuracy)))
