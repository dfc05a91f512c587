"""Answers to imitate, from the user's own file or a hub data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignlab.data.files import Record
from alignlab.data.forms import ANSWER, NEEDED, PROMPT_COLUMNS, completion_of
from alignlab.data.own_files import OwnFiles
from alignlab.data.rows import Completion, Loaded, Pair, Split
from alignlab.data.sources.base import ReferenceTable
from alignlab.errors import DataError
from alignlab.types import DataShape


@dataclass(kw_only=True)
class Completions(OwnFiles):
    """Rows with a prompt and an answer (alignlab/data/forms.py), or whole conversations, for SFT.

    Of a conversation, the last turn is the answer that is learnt, and all turns before it are its prompt. An optional
    column `ended` is false if a length limit cut the answer off.
    """

    needed: ClassVar[tuple[tuple[str, ...], ...]] = NEEDED["completions"]
    reads: ClassVar[tuple[str, ...]] = (*PROMPT_COLUMNS, *ANSWER, "ended")

    @property
    def shapes(self) -> tuple[DataShape, ...]:
        return ("completions",)

    def parse(self, record: Record) -> Completion:
        return completion_of(record)

    def usable(self, split: Split) -> Loaded[Completion]:
        return self.completions(split)

    def completions(self, split: Split) -> Loaded[Completion]:
        return self.kept_rows(split)

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        raise DataError(f"{self.path} has single answers, but the objective needs pairs")
