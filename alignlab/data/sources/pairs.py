"""Preference pairs from the user's own file, a local data set folder, or a hub data set in the paired form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alignlab.data.conversations import read_row
from alignlab.data.files import Record
from alignlab.data.filters import drop_unusable
from alignlab.data.own_files import OwnFiles, read_columns
from alignlab.data.rows import Loaded, Pair, Split
from alignlab.data.sources.base import ReferenceTable


@dataclass(kw_only=True)
class Pairs(OwnFiles):
    """Rows with `prompt`, `chosen` and `rejected`: strings, or lists of {role, content} messages.

    `chosen` and `rejected` may be whole conversations. Then their last turns are the answers. The turns before them are
    the prompt, and must be the same in both. Such rows need no `prompt`.

    An optional column `margin` states by how much a reward model's rewards of the two answers should differ
    (objective.margins). A value that is not a finite number counts as no margin.
    """

    def read(self, path: str) -> Sequence[Pair]:
        return read_columns(path, _pair, ("prompt", "chosen", "rejected"), ("chosen", "rejected"))

    def usable(self, split: Split) -> Loaded[Pair]:
        return self.pairs(split, None)

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        loaded = drop_unusable(self.split_rows(split))
        return loaded.with_rows(loaded.rows[: self.limited(split)])


def _pair(row: Record) -> Pair:
    answers = {name: row.get(name) for name in ("chosen", "rejected")}
    prompt, (chosen, rejected) = read_row(row, answers)
    return Pair(prompt, chosen, rejected, margin=_margin(row.get("margin")))


def _margin(value: Any) -> float | None:
    try:
        margin = float(value)
    except (TypeError, ValueError):
        return None
    return margin if math.isfinite(margin) else None
