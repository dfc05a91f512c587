"""Rows of data sources, as text before tokenization. `place` says where a row comes from; None if it was generated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Literal, TypedDict, TypeVar

Split = Literal["train", "eval"]


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


Prompt = str | list[Message]

# (text of an answer, whether it ended; False if a length limit cut it off).
AnswerText = tuple[str, bool]


@dataclass(frozen=True)
class Place:
    """Where a row comes from: a file, or a data set of the hub, and the row's number in it, counted from 1."""

    file: str
    row: int

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}"


def messages_of(prompt: Prompt) -> list[Message]:
    """A prompt as messages. A text is one message of the user."""
    return [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt


@dataclass(frozen=True)
class Completion:
    """A prompt and one answer. `ended` is False if a length limit cut the answer off; it then gets no end token."""

    prompt: Prompt
    completion: str
    ended: bool = True
    place: Place | None = field(default=None, compare=False)

    def answers(self) -> list[AnswerText]:
        return [(self.completion, self.ended)]


@dataclass(frozen=True)
class PromptOnly(Completion):
    """A prompt for objectives that sample the answers. `completion` is empty."""

    completion: str = ""


@dataclass(frozen=True)
class Pair:
    """A prompt, a preferred answer and a dispreferred one. `*_ended` is as in Completion, `margin` as in Ranking."""

    prompt: Prompt
    chosen: str
    rejected: str
    chosen_ended: bool = True
    rejected_ended: bool = True
    margin: float | None = None
    place: Place | None = field(default=None, compare=False)

    def answers(self) -> list[AnswerText]:
        """The preferred answer, then the dispreferred one."""
        return [(self.chosen, self.chosen_ended), (self.rejected, self.rejected_ended)]

    def preferred(self) -> Completion:
        """The preferred answer alone."""
        return Completion(self.prompt, self.chosen, self.chosen_ended, self.place)

    def halves(self) -> list[Labelled]:
        """The pair as two labelled answers: the preferred one is good, the dispreferred one bad."""
        return [
            Labelled(self.prompt, self.chosen, True, self.chosen_ended, self.place),
            Labelled(self.prompt, self.rejected, False, self.rejected_ended, self.place),
        ]

    def ranking(self) -> Ranking:
        """The pair as a ranking of two answers with the grades 1 and 0."""
        return Ranking(
            self.prompt,
            [self.chosen, self.rejected],
            [1.0, 0.0],
            [self.chosen_ended, self.rejected_ended],
            self.margin,
            self.place,
        )


@dataclass(frozen=True)
class Labelled:
    """A prompt and one answer that is labelled good (`desirable`) or bad. `ended` is as in Completion."""

    prompt: Prompt
    completion: str
    desirable: bool
    ended: bool = True
    place: Place | None = field(default=None, compare=False)

    def answers(self) -> list[AnswerText]:
        return [(self.completion, self.ended)]


@dataclass(frozen=True)
class Ranking:
    """A prompt and K graded answers. Larger grades are better; answers of equal grade are not compared.

    margin: by how much the reward of the better of two answers should exceed that of the other; None if the data gives
            no margin.
    """

    prompt: Prompt
    completions: list[str]
    grades: list[float]
    ended: list[bool]
    margin: float | None = None
    place: Place | None = field(default=None, compare=False)

    def answers(self) -> list[AnswerText]:
        return list(zip(self.completions, self.ended, strict=True))


AnyRow = Pair | Completion | Labelled | Ranking
Row = TypeVar("Row", Pair, Completion, Labelled, Ranking)
Other = TypeVar("Other", Pair, Completion, Labelled, Ranking)


@dataclass(frozen=True)
class LeftOut:
    """A row that was left out, and why. `place` is None if it is not known where the row comes from."""

    reason: str
    place: Place | None


@dataclass(frozen=True)
class Loaded(Generic[Row]):
    """The rows of one split, and how many rows were left out, by reason.

    left_out: the rows that were left out, as far as they are known one by one. `dropped` counts all of them.
    beyond:   number of good rows that are not used because of a limit (`data.train_limit`, `data.eval_limit`).
    """

    rows: list[Row]
    dropped: Counter[str] = field(default_factory=Counter)
    left_out: tuple[LeftOut, ...] = ()
    beyond: int = 0

    def first(self, most: int | None) -> Loaded[Row]:
        """The first `most` rows; all of them for None."""
        rows = self.rows[:most]
        return replace(self, rows=rows, beyond=self.beyond + len(self.rows) - len(rows))

    def spread(self, most: int | None) -> Loaded[Row]:
        """`most` rows at equal distances, in their order; all of them for None.

        Rows are often sorted (by label or by topic), and several files follow one another. The first rows would
        represent neither.
        """
        if most is None or most >= len(self.rows):
            return self
        rows = [self.rows[i * len(self.rows) // most] for i in range(most)]
        return replace(self, rows=rows, beyond=self.beyond + len(self.rows) - len(rows))

    def with_rows(self, rows: list[Other], left_out: Sequence[LeftOut] = ()) -> Loaded[Other]:
        """Other rows, with the same record of what was left out, and with further rows that are left out."""
        dropped = self.dropped + Counter(row.reason for row in left_out)
        return Loaded(rows, dropped, (*self.left_out, *left_out), self.beyond)
