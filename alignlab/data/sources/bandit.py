"""Comparisons of a few actions without context, as in the bandits of IPO, Azar et al. 2023, section 5.4."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from alignlab.data.fingerprint import digest
from alignlab.data.rows import Loaded, Pair, Split
from alignlab.data.sources.base import ReferenceTable, Source
from alignlab.errors import Problem
from alignlab.lab.bandit import Bandit as Actions
from alignlab.lab.weighted_pairs import WeightedPairs


@dataclass(kw_only=True)
class Bandit(Source):
    """Every comparison is one pair. Training and evaluation use the same pairs.

    alphabet:    one letter for each action.
    comparisons: two letters each, the preferred action first. [ab,bc,ac] means that a beat b, b beat c and a beat c. A
                 comparison that is listed twice counts twice.
    """

    alphabet: str = "abc"
    comparisons: list[str] = field(default_factory=lambda: ["ab", "bc", "ac"])

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if len(self.alphabet) < 2 or len(set(self.alphabet)) < len(self.alphabet):
            yield Problem("alphabet", self.alphabet, "must be at least two different letters", "alphabet=abc")
        wrong = [c for c in self.comparisons if len(c) != 2 or c[0] == c[1] or not set(c) <= set(self.alphabet)]
        if wrong or not self.comparisons:
            text = f"must each be two different letters of {self.alphabet}, the preferred one first"
            shown = f"[{','.join(wrong or self.comparisons)}]"
            yield Problem("comparisons", shown, text, "comparisons=[ab,bc,ac]")

    @property
    def world(self) -> Actions:
        return Actions(alphabet=self.alphabet, comparisons=tuple(self.comparisons))

    def population(self, reference: Any) -> WeightedPairs:
        """The comparisons. Answer 0 is the empty completion, which is in none."""
        places = np.array([[1 + self.alphabet.index(letter) for letter in pair] for pair in self.comparisons])
        return WeightedPairs.of_rows(np.zeros(len(places), dtype=np.int64), *places.T)

    def fingerprint(self) -> str:
        return digest([repr(sorted(asdict(self).items())).encode()])

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        rows = [Pair("", pair[0], pair[1], False, False) for pair in self.comparisons]
        return Loaded(rows[: self.limited(split)])
