"""Prompts without answers, for online objectives, from the user's own file or a hub data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignlab.data.files import Record
from alignlab.data.forms import NEEDED, prompt_of
from alignlab.data.own_files import OwnFiles
from alignlab.data.rows import Completion, Loaded, Pair, PromptOnly, Split
from alignlab.data.sources.base import ReferenceTable
from alignlab.errors import DataError
from alignlab.types import DataShape


@dataclass(kw_only=True)
class Prompts(OwnFiles):
    """Rows with a prompt (alignlab/data/forms.py). The policy writes the answers during training."""

    needed: ClassVar[tuple[tuple[str, ...], ...]] = NEEDED["prompts"]

    @property
    def shapes(self) -> tuple[DataShape, ...]:
        return ()

    def parse(self, record: Record) -> PromptOnly:
        return prompt_of(record)

    def usable(self, split: Split) -> Loaded[Completion]:
        return self.completions(split)

    def completions(self, split: Split) -> Loaded[Completion]:
        """The prompts with empty answers."""
        return self.split_rows(split).spread(self.limited(split))

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        raise DataError(f"{self.path} has prompts without answers, but the objective needs pairs")
