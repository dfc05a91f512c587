"""A bandit as a world: one prompt, answers of one letter, and a reward that is read off comparisons of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from alignlab.lab.world import Array, World


@dataclass(frozen=True)
class Bandit(World):
    """Actions a, b, c, ... after an empty prompt (Azar et al. 2023, https://arxiv.org/abs/2310.12036, section 5.4).

    A policy that can end before it acts has one completion more, the empty one; `model=bandit` never does.

    comparisons: two letters each, of which the first one won.
    """

    length: int = 1
    prompts: int = 1
    prompt_length: int = 0
    comparisons: tuple[str, ...] = ()

    @cached_property
    def gold_reward(self) -> Array:
        """[1, N] share of its comparisons that an action wins; 1/2 where it has none, 0 for no action at all."""
        wins = np.zeros(self.symbols)
        losses = np.zeros(self.symbols)
        for pair in self.comparisons:
            wins[self.alphabet.index(pair[0])] += 1
            losses[self.alphabet.index(pair[1])] += 1
        total = wins + losses
        share = np.divide(wins, total, out=np.full(self.symbols, 0.5), where=total > 0)
        return np.concatenate([[0.0], share])[None]
