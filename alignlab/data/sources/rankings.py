"""Prompts with several graded answers, from the user's own file or a hub data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alignlab.data.audit import drop_unusable
from alignlab.data.own_files import OwnFiles, parse_answer, parse_number, parse_prompt, read_columns
from alignlab.data.rows import Loaded, Pair, Ranking, Split
from alignlab.data.sources.base import ReferenceTable
from alignlab.errors import DataError


@dataclass(kw_only=True)
class Rankings(OwnFiles):
    """Rows with `prompt`, `completions` (a list) and `grades` (a list of numbers, larger is better).

    Where pairs are asked for, the best and the worst answer of a prompt make one.
    """

    def read(self, path: str) -> Sequence[Ranking]:
        return read_columns(path, _ranking, ("prompt", "completions", "grades"))

    def rankings(self, split: Split, reference: ReferenceTable | None) -> Loaded[Ranking]:
        rows = self.split_rows(split)
        kept = [row for row in rows if len(set(row.grades)) > 1]
        dropped = Counter({"no two grades differ": len(rows) - len(kept)} if len(kept) < len(rows) else {})
        return Loaded(kept[: self.limited(split)], dropped)

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        loaded = self.rankings(split, reference)
        return drop_unusable([_extremes(row) for row in loaded.rows], loaded.dropped)


def _extremes(row: Ranking) -> Pair:
    best, worst = (pick(range(len(row.grades)), key=row.grades.__getitem__) for pick in (max, min))
    return Pair(row.prompt, row.completions[best], row.completions[worst])


def _ranking(row: dict[str, Any], where: str) -> Ranking:
    completions, grades = row["completions"], row["grades"]
    if not isinstance(completions, list) or not isinstance(grades, list) or len(completions) != len(grades):
        raise DataError(f"{where}: completions and grades must be lists of the same length")
    if len(completions) < 2:
        raise DataError(f"{where}: a ranking needs at least two completions")
    texts = [parse_answer(text, where) for text in completions]
    if not all(text.strip() for text in texts):
        raise DataError(f"{where}: an answer is empty")
    numbers = [parse_number(grade, "a grade", where) for grade in grades]
    return Ranking(parse_prompt(row["prompt"], where), texts, numbers, [True] * len(texts))
