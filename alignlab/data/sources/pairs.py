"""Preference pairs from the user's own file, a local data set folder, or a hub data set in the paired form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from alignlab.data.files import Record
from alignlab.data.forms import NEEDED, PROMPT_COLUMNS, pair_of
from alignlab.data.locations import parts_of, paths_of
from alignlab.data.own_files import OwnFiles
from alignlab.data.rows import Loaded, Pair, Split
from alignlab.data.sources.base import ReferenceTable


@dataclass(kw_only=True)
class Pairs(OwnFiles):
    """Rows with a prompt (alignlab/data/forms.py), `chosen` and `rejected`: texts, or lists of {role, content} turns.

    `chosen` and `rejected` may be whole conversations. Then their last turns are the answers. The turns before them are
    the prompt, and must be the same in both. Such rows need no `prompt`.

    An optional column `margin` states by how much a reward model's rewards of the two answers should differ
    (objective.margins). A value that is not a finite number counts as no margin. `chosen_ended` and `rejected_ended`
    are false if a length limit cut the answer off.
    """

    needed: ClassVar[tuple[tuple[str, ...], ...]] = NEEDED["pairs"]
    reads: ClassVar[tuple[str, ...]] = (
        *PROMPT_COLUMNS, "chosen", "rejected", "margin", "chosen_ended", "rejected_ended",
    )  # fmt: skip

    def parse(self, record: Record) -> Pair:
        return pair_of(record)

    def usable(self, split: Split) -> Loaded[Pair]:
        return self.pairs(split, None)

    def scores(self) -> list[tuple[float, float]]:
        """(`score_chosen`, `score_rejected`) of all training rows that have both. They are read for the audit only."""
        if {"chosen", "rejected"} & set(self.columns):  # other columns are the answers, so the scores may not be theirs
            return []
        parts = [
            part for path in paths_of(self.path) for part in parts_of(path, self.split, self.subset, self.revision)
        ]
        rows = [row for part in parts for row in part.records()]
        scores = [(_number(row.get("score_chosen")), _number(row.get("score_rejected"))) for row in rows]
        return [both for both in scores if all(map(math.isfinite, both))]

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        return self.kept_rows(split)


def _number(value: Any) -> float:
    """A value as a number; NaN if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
