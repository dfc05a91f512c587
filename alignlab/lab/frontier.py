"""The exact trade-off between reward and KL on an enumerable space.

Given a reference pi_ref and a reward r, the policies pi_b ~ pi_ref exp(r / b) have the largest expected reward at their
KL(pi || pi_ref). They are the frontier (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, eq. 4). With several
prompts, the frontier of the averages has the same b for all prompts, because the slope dR/dKL = b must be the same for
each of them.

All tables are [X, N] over prompts and completions. Means over prompts have equal weights. KL is in nats per sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def log_normalise(logits: Array) -> Array:
    """[X, N] logits -> [X, N] log-probabilities: each row minus its log-sum-exp."""
    top = logits.max(axis=1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))


def tilt(reference: Array, reward: Array, strength: float) -> Array:
    """[X, N] log-probabilities of pi ~ pi_ref exp(r / strength), the optimum of E[r] - strength KL(pi || pi_ref)."""
    return log_normalise(reference + reward / strength)


def expected(logps: Array, values: Array) -> float:
    """E_x E_{y ~ pi(.|x)} of a table of values.

    logps:  [X, N] log-probabilities of pi, nats.
    values: [X, N].
    """
    return float((np.exp(logps) * values).sum(axis=1).mean())


def kl(p: Array, q: Array) -> float:
    """E_x KL(p(.|x) || q(.|x)) of two tables of log-probabilities [X, N], nats per sequence."""
    return expected(p, p - q)


@dataclass(frozen=True)
class Frontier:
    """The largest expected reward at each KL, for one reference and one reward.

    reference: [X, N] log-probabilities of the reference, nats.
    reward:    [X, N].
    """

    reference: Array
    reward: Array

    def point(self, strength: float) -> tuple[float, float]:
        """(KL, expected reward) of the optimum at this strength; the KL is in nats per sequence."""
        distance, reward, _ = self._optimum(strength)
        return distance, reward

    def strength_at(self, target_kl: float) -> float:
        """The strength whose optimum has this KL (nats per sequence). It is searched for between e^-12 and e^12.

        The search is Newton's method on the logarithm of the strength. KL falls as strength grows, so the search keeps
        a bracket, and halves it if a Newton step would leave it.
        """
        low, high, at = -12.0, 12.0, 0.0
        while high - low > 1e-12:
            strength = math.exp(at)
            distance, _, variance = self._optimum(strength)
            if distance > target_kl:
                low = at
            else:
                high = at
            slope = variance / strength**2
            step = (distance - target_kl) / slope if slope > 0 else math.inf
            if abs(step) < 1e-13:
                break
            at = at + step if low < at + step < high else (low + high) / 2
        return math.exp(at)

    def _optimum(self, strength: float) -> tuple[float, float, float]:
        """(KL, expected reward, reward's variance) at the optimum, as means over prompts. dKL/d log b = -Var / b^2."""
        logits = self.reference + self.reward / strength
        top = logits.max(axis=1)
        weight = np.exp(logits - top[:, None])
        total = weight.sum(axis=1)
        weight /= total[:, None]
        reward = (weight * self.reward).sum(axis=1)
        variance = (weight * (self.reward - reward[:, None]) ** 2).sum(axis=1)
        # log p - log ref = r / b - log(normaliser), so no second table of logarithms is needed
        distance = reward / strength - top - np.log(total)
        return float(distance.mean()), float(reward.mean()), float(variance.mean())

    def curve(self, max_kl: float, points: int = 60) -> list[tuple[float, float, float]]:
        """(KL, reward, strength) of points on the frontier, from the reference to max_kl, for plots."""
        strengths = np.geomspace(self.strength_at(1e-3), self.strength_at(max_kl), points)
        start = (0.0, expected(self.reference, self.reward), float("inf"))
        return [start, *((*self.point(float(s)), float(s)) for s in strengths)]
