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


@dataclass(frozen=True)
class Completion:
    """A prompt and one answer. `ended` is False where a length limit cut the answer off: it has no end token then."""

    prompt: Prompt
    completion: str
    ended: bool = True


@dataclass(frozen=True)
class Pair:
    """A prompt, the preferred and the dispreferred answer; `*_ended` as in Completion."""

    prompt: Prompt
    chosen: str
    rejected: str
    chosen_ended: bool = True
    rejected_ended: bool = True

    def preferred(self) -> Completion:
        """The preferred answer alone."""
        return Completion(self.prompt, self.chosen, self.chosen_ended)


Row = TypeVar("Row", Pair, Completion)


@dataclass(frozen=True)
class Loaded(Generic[Row]):
    """Rows of one split and how many were left out, by reason."""

    rows: list[Row]
    dropped: Counter[str] = field(default_factory=Counter)
