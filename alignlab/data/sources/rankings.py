"""Prompts with several graded answers, from the user's own file or a hub data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from alignlab.data.conversations import UnusableRowError, gather, read_row
from alignlab.data.files import Record
from alignlab.data.filters import drop_unusable
from alignlab.data.own_files import OwnFiles, parse_number, read_columns
from alignlab.data.rows import Loaded, Pair, Ranking, Split
from alignlab.data.sources.base import ReferenceTable


@dataclass(kw_only=True)
class Rankings(OwnFiles):
    """Rows with `prompt`, `completions` (a list) and `grades` (a list of numbers, larger is better).

    Completions may be whole conversations. Then their last turns are the answers, and the turns before them are the
    prompt, which must be the same in all of them. Such rows need no `prompt`.

    For objectives on pairs, the best and the worst answer of each prompt are one pair.
    """

    def read(self, path: str) -> Sequence[Ranking]:
        return read_columns(path, _ranking, ("prompt", "completions", "grades"), ("completions", "grades"))

    def usable(self, split: Split) -> Loaded[Ranking]:
        return self.rankings(split, None)

    def rankings(self, split: Split, reference: ReferenceTable | None) -> Loaded[Ranking]:
        loaded = drop_unusable(self.split_rows(split))
        return loaded.with_rows(loaded.rows[: self.limited(split)])

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        loaded = self.rankings(split, reference)
        return drop_unusable([_extremes(row) for row in loaded.rows], loaded.dropped, loaded.left_out)


def _extremes(row: Ranking) -> Pair:
    best, worst = (pick(range(len(row.grades)), key=row.grades.__getitem__) for pick in (max, min))
    return Pair(row.prompt, row.completions[best], row.completions[worst])


def _ranking(row: Record) -> Ranking:
    completions, grades = row.get("completions"), row.get("grades")
    if not isinstance(completions, list) or not isinstance(grades, list) or len(completions) != len(grades):
        raise UnusableRowError("completions and grades must be lists of the same length")
    if len(completions) < 2:
        raise UnusableRowError("a ranking needs at least two completions")
    answers = {f"answer {i} of completions": answer for i, answer in enumerate(completions, 1)}
    (prompt, texts), numbers = gather(
        lambda: read_row(row, answers),
        lambda: gather(*(partial(parse_number, grade, f"grade {i}") for i, grade in enumerate(grades, 1))),
    )
    if not all(text.strip() for text in texts):
        raise UnusableRowError("an answer is empty")
    return Ranking(prompt, texts, numbers, [True] * len(texts))
