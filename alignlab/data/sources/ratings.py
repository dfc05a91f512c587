"""Single answers with ratings, from the user's own file or a hub data set: answers to the same prompt are compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import ClassVar

from alignlab.data.conversations import UnusableRowError, gather, prompt_key, refuse_unsupported_columns
from alignlab.data.files import Record
from alignlab.data.forms import ANSWER, NEEDED, PROMPT_COLUMNS, completion_of, read_number
from alignlab.data.own_files import Located
from alignlab.data.rows import Completion, LeftOut, Place, Ranking
from alignlab.data.sources.rankings import Rankings


@dataclass
class _Answers:
    """The answers to a prompt: text -> its first row, and its ratings."""

    place: Place
    rows: dict[str, Completion] = field(default_factory=dict)
    ratings: dict[str, list[float]] = field(default_factory=dict)

    def ranking(self) -> Ranking:
        rows = list(self.rows.values())
        grades = [fmean(self.ratings[row.completion]) for row in rows]
        return Ranking(rows[0].prompt, [row.completion for row in rows], grades, [row.ended for row in rows])


@dataclass(kw_only=True)
class Ratings(Rankings):
    """Rows with a prompt and an answer (alignlab/data/forms.py), and its `rating` (a number; larger is better).

    Rows with the same prompt are one ranking. The ratings of the same answer to it, by several people, are averaged.
    Rows without a rating and prompts with only one answer are left out and counted. An optional column `ended` is false
    if a length limit cut the answer off.

    For objectives on pairs, the best and the worst answer of each prompt are one pair.
    """

    needed: ClassVar[tuple[tuple[str, ...], ...]] = (*NEEDED["completions"], ("rating",))
    reads: ClassVar[tuple[str, ...]] = (*PROMPT_COLUMNS, *ANSWER, "rating", "ended")

    def arrange(self, rows: Sequence[Located], left_out: list[LeftOut]) -> Iterable[Located]:
        found: dict[str, _Answers] = {}
        for place, record in rows:
            try:
                row, rating = _rated(record)
            except UnusableRowError:
                yield place, record  # `parse` says what is wrong with it
                continue
            if rating is None or not row.completion.strip():
                left_out.append(LeftOut("no rating" if rating is None else "empty answer", place))
                continue
            answers = found.setdefault(prompt_key(row.prompt), _Answers(place))
            answers.rows.setdefault(row.completion, row)
            answers.ratings.setdefault(row.completion, []).append(rating)
        for answers in found.values():
            if len(answers.rows) < 2:
                left_out.append(LeftOut("only one answer to its prompt", answers.place))
            else:
                yield answers.place, {"ranking": answers.ranking()}

    def parse(self, record: Record) -> Ranking:
        ranking = record.get("ranking")
        if not isinstance(ranking, Ranking):
            _rated(record)
            raise AssertionError(f"a row without faults was not arranged: {record}")
        return ranking


def _rated(record: Record) -> tuple[Completion, float | None]:
    """A row, and its rating; None if the cell is empty. Raises UnusableRowError."""
    value = record.get("rating")
    _, row, rating = gather(
        partial(refuse_unsupported_columns, record, PROMPT_COLUMNS, by_config=True),
        partial(completion_of, record),
        lambda: None if value in (None, "") else read_number(value, "rating"),
    )
    return row, rating
