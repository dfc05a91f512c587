"""Preference pairs from the user's own file, a local data set folder, or a hub data set in the paired form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignlab.data.files import Record
from alignlab.data.forms import NEEDED, PROMPT_COLUMNS, pair_of
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

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        return self.kept_rows(split)
