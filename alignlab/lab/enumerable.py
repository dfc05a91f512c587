"""Small worlds of papers as Worlds: a list of answers with a prior and a reward, of one token each or spelled out."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from alignlab.lab.tables import KINDS, defaults_of
from alignlab.lab.world import Array, World

# One symbol for each answer or letter.
SYMBOLS = string.ascii_letters + "".join(map(chr, range(0x4E00, 0x9FF0)))

# The logarithm of a probability that is 0 in every float type.
NEVER = -1e4


@dataclass(frozen=True)
class Enumerable(World):
    """A world whose prior and reward are one of the kinds in `alignlab.lab.tables`.

    The World's completions are all strings of up to `length` letters. Here only those of exactly `length` letters are
    answers: the prior never writes shorter ones, and they have the lowest reward of their prompt.

    kind:     name of the function that makes the tables.
    settings: its settings.
    """

    kind: str = "random"
    settings: tuple[tuple[str, float], ...] = ()

    @cached_property
    def prompt_texts(self) -> list[str]:
        """The empty prompt if there is one prompt, else the first X letters."""
        return [""] if self.prompts == 1 else list(self.alphabet[: self.prompts])

    @cached_property
    def _tables(self) -> tuple[Array, Array]:
        return KINDS[self.kind](self.seed, self.prompts, **dict(self.settings))

    @cached_property
    def demonstrator_logps(self) -> Array:
        """[X, N] log-probability of each completion under the author of the data, nats."""
        prior = self._tables[0]
        shorter = np.full((self.prompts, self.leaves - prior.shape[1]), NEVER)
        return np.concatenate([shorter, prior], axis=1)

    @cached_property
    def gold_reward(self) -> Array:
        """[X, N] gold reward of each completion."""
        reward = self._tables[1]
        shorter = np.repeat(reward.min(axis=1, keepdims=True), self.leaves - reward.shape[1], axis=1)
        return np.concatenate([shorter, reward], axis=1)


def sizes(kind: str, settings: Mapping[str, float], *, spelled: bool) -> tuple[int, int]:
    """(number of symbols, length of an answer). An answer is one symbol unless it is spelled."""
    values = {**defaults_of(kind), **settings}
    if "answers" in values:
        return int(values["answers"]), 1
    letters, length = int(values["letters"]), int(values["length"])
    return (letters, length) if spelled else (letters**length, 1)


@lru_cache(maxsize=32)
def _enumerable(
    kind: str, settings: tuple[tuple[str, float], ...], prompts: int, seed: int, spelled: bool
) -> Enumerable:
    symbols, length = sizes(kind, dict(settings), spelled=spelled)
    return Enumerable(SYMBOLS[:symbols], length, prompts, 0 if prompts == 1 else 1, seed, kind, settings)


def enumerable(
    kind: str, settings: Mapping[str, float], *, prompts: int = 1, seed: int = 0, spelled: bool = False
) -> Enumerable:
    """The world of a kind. It is cached, because all points of a sweep use the same tables.

    spelled: an answer that is a string has one token for each letter, instead of one token in all.
    """
    whole = {name: type(value)(settings.get(name, value)) for name, value in defaults_of(kind).items()}
    return _enumerable(kind, tuple(sorted(whole.items())), prompts, seed, spelled)
