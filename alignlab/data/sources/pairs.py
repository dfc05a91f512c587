"""Preference pairs from the user's own file, a local data set folder, or a hub data set in the paired form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alignlab.data.audit import drop_unusable
from alignlab.data.own_files import OwnFiles, parse_answer, parse_prompt, read_columns
from alignlab.data.rows import Loaded, Pair, Split
from alignlab.data.sources.base import ReferenceTable


@dataclass(kw_only=True)
class Pairs(OwnFiles):
    """Rows with `prompt`, `chosen` and `rejected`: strings, or lists of {role, content} messages.

    A column `margin` says by how much a reward model should tell the two apart (objective.margins); what is no number
    there counts as none.
    """

    def read(self, path: str) -> Sequence[Pair]:
        return read_columns(path, _pair, ("prompt", "chosen", "rejected"))

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        loaded = drop_unusable(self.split_rows(split))
        return Loaded(loaded.rows[: self.limited(split)], loaded.dropped)


def _pair(row: dict[str, Any], where: str) -> Pair:
    return Pair(
        parse_prompt(row["prompt"], where),
        parse_answer(row["chosen"], where),
        parse_answer(row["rejected"], where),
        margin=_margin(row.get("margin")),
    )


def _margin(value: Any) -> float | None:
    try:
        margin = float(value)
    except (TypeError, ValueError):
        return None
    return margin if math.isfinite(margin) else None
