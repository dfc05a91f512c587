"""A bandit as a World: one prompt, answers of one letter, and a gold reward computed from comparisons of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from alignlab.lab.world import Array, World


@dataclass(frozen=True)
class Bandit(World):
    """Actions a, b, c, ... after an empty prompt (Azar et al. 2023, https://arxiv.org/abs/2310.12036, section 5.4).

    The empty completion is one of the N completions too, for policies that can end before they act. `model=bandit`
    never ends before it acts.

    comparisons: two letters each; the first one won.
    """

    length: int = 1
    prompts: int = 1
    prompt_length: int = 0
    comparisons: tuple[str, ...] = ()

    @cached_property
    def gold_reward(self) -> Array:
        """[1, N] share of its comparisons that an action wins; 1/2 without comparisons, 0 for the empty completion."""
        wins = np.zeros(self.symbols)
        losses = np.zeros(self.symbols)
        for pair in self.comparisons:
            wins[self.alphabet.index(pair[0])] += 1
            losses[self.alphabet.index(pair[1])] += 1
        total = wins + losses
        share = np.divide(wins, total, out=np.full(self.symbols, 0.5), where=total > 0)
        return np.concatenate([[0.0], share])[None]
