"""Pairs of answers of an enumerable task with their shares of all pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class WeightedPairs:
    """Pairs, each with a prompt, a preferred and a dispreferred answer.

    prompt, better, worse: int64[B], places in the tables of a world.
    weight:                [B] shares, which add up to 1.
    whole:                 whether these are all pairs that the data could have. If not, they are a sample of pairs of
                           answers, each in both orders with the probabilities of its labels.
    """

    prompt: Places
    better: Places
    worse: Places
    weight: Array
    whole: bool = True

    @classmethod
    def of_table(cls, table: Array) -> WeightedPairs:
        """The pairs of a table [X, N, N] of shares: prompt, preferred answer, dispreferred answer."""
        prompt, better, worse = np.nonzero(table)
        return cls(prompt, better, worse, table[prompt, better, worse])

    @classmethod
    def of_rows(cls, prompt: Places, better: Places, worse: Places) -> WeightedPairs:
        """The different ones of these pairs, weighted by how often they occur."""
        rows, counts = np.unique(np.stack([prompt, better, worse], axis=1), axis=0, return_counts=True)
        return cls(rows[:, 0], rows[:, 1], rows[:, 2], counts / counts.sum())
