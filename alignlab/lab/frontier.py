"""The exact trade of reward against KL on an enumerable space.

For a reference pi_ref and a reward r the policies pi_b ~ pi_ref exp(r / b) have the largest expected reward at their
KL(pi || pi_ref): they are the frontier (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, eq. 4). With several
prompts one common b for all of them gives the frontier of the averages, because the slope dR/dKL = b must be the same
everywhere.

All tables are [X, N] over prompts and completions; all means over prompts are uniform; KL is in nats per sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def log_normalise(logits: Array) -> Array:
    """[X, N] -> [X, N], each row minus its log-sum-exp."""
    top = logits.max(axis=1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))


def tilt(reference: Array, reward: Array, strength: float) -> Array:
    """[X, N] log-probabilities of pi ~ pi_ref exp(r / strength), the optimum of E[r] - strength KL(pi || pi_ref)."""
    return log_normalise(reference + reward / strength)


def expected(logps: Array, values: Array) -> float:
    """E_x E_{y ~ pi(.|x)} of a table of values."""
    return float((np.exp(logps) * values).sum(axis=1).mean())


def kl(p: Array, q: Array) -> float:
    """E_x KL(p(.|x) || q(.|x)), nats per sequence."""
    return expected(p, p - q)


@dataclass(frozen=True)
class Frontier:
    """Largest expected reward at each KL, for one reference and one reward."""

    reference: Array
    reward: Array

    def point(self, strength: float) -> tuple[float, float]:
        """(KL in nats, expected reward) of the optimum at this strength."""
        best = tilt(self.reference, self.reward, strength)
        return kl(best, self.reference), expected(best, self.reward)

    def strength_at(self, target_kl: float) -> float:
        """The strength whose optimum has this KL, by bisection on its logarithm (KL falls as strength grows)."""
        low, high = -12.0, 12.0
        for _ in range(60):
            middle = (low + high) / 2
            if self.point(float(np.exp(middle)))[0] > target_kl:
                low = middle
            else:
                high = middle
        return float(np.exp((low + high) / 2))

    def curve(self, max_kl: float, points: int = 60) -> list[tuple[float, float, float]]:
        """(KL, reward, strength) along the frontier from the reference to max_kl, for drawing."""
        strengths = np.geomspace(self.strength_at(1e-3), self.strength_at(max_kl), points)
        start = (0.0, expected(self.reference, self.reward), float("inf"))
        return [start, *((*self.point(float(s)), float(s)) for s in strengths)]
