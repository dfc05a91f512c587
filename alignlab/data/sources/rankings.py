"""Prompts with several graded answers, from the user's own file or a hub data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignlab.data.files import Record
from alignlab.data.filters import drop_unusable
from alignlab.data.forms import NEEDED, PROMPT_COLUMNS, ranking_of
from alignlab.data.own_files import OwnFiles
from alignlab.data.rows import Loaded, Pair, Ranking, Split
from alignlab.data.sources.base import ReferenceTable


@dataclass(kw_only=True)
class Rankings(OwnFiles):
    """Rows with a prompt (alignlab/data/forms.py), `completions` (a list) and `grades` (a list; larger is better).

    Completions may be whole conversations. Then their last turns are the answers, and the turns before them are the
    prompt, which must be the same in all of them. Such rows need no `prompt`. An optional list `ended` is false for
    answers that a length limit cut off.

    For objectives on pairs, the best and the worst answer of each prompt are one pair.
    """

    needed: ClassVar[tuple[tuple[str, ...], ...]] = NEEDED["rankings"]
    reads: ClassVar[tuple[str, ...]] = (*PROMPT_COLUMNS, "completions", "grades", "ended")

    def parse(self, record: Record) -> Ranking:
        return ranking_of(record)

    def usable(self, split: Split) -> Loaded[Ranking]:
        return self.rankings(split, None)

    def rankings(self, split: Split, reference: ReferenceTable | None) -> Loaded[Ranking]:
        return self.kept_rows(split)

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        loaded = self.rankings(split, reference)
        return drop_unusable(loaded.with_rows([_extremes(row) for row in loaded.rows]))


def _extremes(row: Ranking) -> Pair:
    best, worst = (pick(range(len(row.grades)), key=row.grades.__getitem__) for pick in (max, min))
    texts, ended = row.completions, row.ended
    return Pair(row.prompt, texts[best], texts[worst], ended[best], ended[worst], row.margin, row.place)
