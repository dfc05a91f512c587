"""Chatbot Arena human preferences (55k), Chiang et al. 2024, https://arxiv.org/abs/2403.04132."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from alignlab.data.conversations import UnusableRowError, read_boolean
from alignlab.data.files import Record
from alignlab.data.own_files import LeftOutError
from alignlab.data.sources.pairs import Pairs

_SIDES = ("prompt", "response_a", "response_b")


@dataclass(kw_only=True)
class Arena55k(Pairs):
    """Rows of lmsys/lmsys-arena-human-preference-55k: lists of texts, one for each turn, written as JSON.

    Ties are left out and counted. So are conversations of several turns whose earlier answers differ: the last answers
    then have different prompts.
    """

    needed: ClassVar[tuple[tuple[str, ...], ...]] = tuple(
        (name,) for name in (*_SIDES, "winner_model_a", "winner_model_b", "winner_tie")
    )
    reads: ClassVar[tuple[str, ...]] = (*_SIDES, "winner_model_a", "winner_model_b", "winner_tie")

    def convert(self, record: Record) -> Record:
        if read_boolean(record.get("winner_tie"), "winner_tie"):
            raise LeftOutError("tie")
        prompts, first, second = (_texts(record.get(name), name) for name in _SIDES)
        if not len(prompts) == len(first) == len(second):
            raise UnusableRowError(f"{', '.join(_SIDES)} must have the same number of turns")
        if None in (*prompts, *first, *second):
            raise LeftOutError("a turn without text")
        if first[:-1] != second[:-1]:
            raise LeftOutError("answers differ before the last turn")
        turns = [
            {"role": role, "content": text}
            for question, answer in zip(prompts, first, strict=True)
            for role, text in (("user", question), ("assistant", answer))
        ][:-1]
        a_wins = read_boolean(record.get("winner_model_a"), "winner_model_a")
        chosen, rejected = (first, second) if a_wins else (second, first)
        return {"prompt": turns, "chosen": chosen[-1], "rejected": rejected[-1]}


def _texts(value: Any, name: str) -> list[Any]:
    """The list in a JSON text. Raises UnusableRowError."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError as error:
        raise UnusableRowError(f"{name} must be a list as JSON, not {value!r:.80}") from error
    if not isinstance(found, list) or not found:
        raise UnusableRowError(f"{name} must be a list of texts, not {value!r:.80}")
    return found
