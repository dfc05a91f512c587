"""Rows as sources deliver them: text, not yet tokens."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Generic, Literal, TypedDict, TypeVar

Split = Literal["train", "eval"]


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


Prompt = str | list[Message]


def messages_of(prompt: Prompt) -> list[Message]:
    """A prompt as messages. A text is one message of the user."""
    return [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt


@dataclass(frozen=True)
class Completion:
    """A prompt and one answer. `ended` is False where a length limit cut the answer off: it has no end token then."""

    prompt: Prompt
    completion: str
    ended: bool = True


@dataclass(frozen=True)
class Pair:
    """A prompt, the preferred and the dispreferred answer; `*_ended` as in Completion, `margin` as in Ranking."""

    prompt: Prompt
    chosen: str
    rejected: str
    chosen_ended: bool = True
    rejected_ended: bool = True
    margin: float | None = None

    def preferred(self) -> Completion:
        """The preferred answer alone."""
        return Completion(self.prompt, self.chosen, self.chosen_ended)

    def halves(self) -> list[Labelled]:
        """The pair as two single answers, the preferred one good and the other one bad."""
        return [
            Labelled(self.prompt, self.chosen, True, self.chosen_ended),
            Labelled(self.prompt, self.rejected, False, self.rejected_ended),
        ]

    def ranking(self) -> Ranking:
        """The pair as a ranking of two."""
        return Ranking(
            self.prompt, [self.chosen, self.rejected], [1.0, 0.0], [self.chosen_ended, self.rejected_ended], self.margin
        )


@dataclass(frozen=True)
class Labelled:
    """A prompt and one answer that is said to be good (`desirable`) or bad; `ended` as in Completion."""

    prompt: Prompt
    completion: str
    desirable: bool
    ended: bool = True


@dataclass(frozen=True)
class Ranking:
    """A prompt and K graded answers, larger grades better; equal grades are not compared.

    `margin` is by how much the better answer of a ranking of two should lead, where the data says so.
    """

    prompt: Prompt
    completions: list[str]
    grades: list[float]
    ended: list[bool]
    margin: float | None = None


Row = TypeVar("Row", Pair, Completion, Labelled, Ranking)


@dataclass(frozen=True)
class Loaded(Generic[Row]):
    """Rows of one split and how many were left out, by reason."""

    rows: list[Row]
    dropped: Counter[str] = field(default_factory=Counter)
