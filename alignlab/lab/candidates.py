"""A closed set of answers to each prompt as a World: any model has an exact distribution over it.

A model gives most of its probability to other answers. Its probabilities are divided by their sum over the set, so that
KL, reward and frontier are those of a choice among the candidates. The sum, the set's share of the model's mass, says
how much of the model that describes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from alignlab.lab.frontier import log_normalise
from alignlab.lab.world import Array, World

# Log-probability of a place without a candidate, in tables of prompts with fewer candidates than others (nats).
ABSENT = -1e4


@dataclass(frozen=True)
class CandidateWorld(World):
    """Prompts with candidates and their scores. Tables are [X, N], where N is the largest number of candidates.

    rows:     for each prompt its text, its candidates and their scores, which are the gold reward.
    ends:     whether an answer ends where its candidate ends. If not, candidates are beginnings of answers.
    template: `data.template`, by which prompts and candidates become tokens.
    """

    alphabet: str = ""
    rows: tuple[tuple[str, tuple[str, ...], tuple[float, ...]], ...] = ()
    ends: bool = True
    template: str = "auto"

    is_whole: ClassVar[bool] = False

    @property
    def leaves(self) -> int:
        return max((len(candidates) for _, candidates, _ in self.rows), default=0)

    @cached_property
    def prompt_texts(self) -> list[str]:
        return [prompt for prompt, _, _ in self.rows]

    @property
    def answers(self) -> list[list[str]]:
        return [list(candidates) for _, candidates, _ in self.rows]

    @cached_property
    def gold_reward(self) -> Array:
        """[X, N] scores. A place without a candidate has the prompt's smallest score; its probability is 0."""
        table = np.empty((len(self.rows), self.leaves))
        for x, (_, _, scores) in enumerate(self.rows):
            table[x] = min(scores)
            table[x, : len(scores)] = scores
        return table

    def normalised(self, table: Array) -> Array:
        """[X, N] log-probabilities of the candidates -> those of a choice among them."""
        return log_normalise(table)

    @staticmethod
    def mass(table: Array) -> float:
        """The candidates' share of a model's probability, mean over prompts.

        table: [X, N] log-probabilities of the candidates under the model, nats.
        """
        return float(np.exp(table).sum(axis=1).mean())
