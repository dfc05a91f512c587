"""Pairs of a better and a worse answer: reads them, stores them with their scores, and computes the accuracy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from alignlab.data.conversations import gather, read_boolean, read_row, refuse_unsupported_columns
from alignlab.data.rows import Prompt
from alignlab.errors import DamagedError, DataError
from alignlab.evaluation.benchmarks.files import Row, parse_rows, read_rows, write_rows
from alignlab.evaluation.benchmarks.reward_bench import Accuracy, reward_bench
from alignlab.integrity import json_digest

PAIRS = "pairs.jsonl"


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


def read_pairs(path: str) -> list[GradedPair]:
    """Read rows with prompt, chosen and rejected, and optionally subset and *_ended.

    Raises DataError with every row that can't be used.
    """
    return parse_rows(path, _pair, "prompt", "chosen", "rejected")


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


def store_pairs(folder: Path, pairs: Sequence[GradedPair], scores: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Store every pair with its scores. Returns `accuracy_of` the stored rows."""
    rows = [
        {**asdict(pair), "chosen_score": chosen, "rejected_score": rejected}
        for pair, (chosen, rejected) in zip(pairs, scores, strict=True)
    ]
    write_rows(folder / PAIRS, [{**row, "sha256": json_digest(rows)} for row in rows])
    return accuracy_of(rows)


def read_stored(folder: Path) -> list[dict[str, Any]]:
    """The rows that `store_pairs` wrote. Each row holds the checksum of all rows; older versions wrote none.

    Raises DamagedError if the file changed since it was written.
    """
    file = folder / PAIRS
    try:
        rows = read_rows(file, "chosen_score", "rejected_score")
    except DataError as error:
        raise DamagedError(file, f"is damaged ({error})") from error
    seals = {str(row.pop("sha256", "")) for row in rows}
    if seals != {""} and seals != {json_digest(rows)}:
        raise DamagedError(file, "is damaged, or was changed by hand (its checksum is wrong)")
    return rows


def accuracy_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy of stored rows with its interval, by subset and by RewardBench's sections, as plain values."""
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
