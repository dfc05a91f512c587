"""Chatbot Arena's ratings: Chiang et al. 2024."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alignlab.papers.claim import Claim, Paper, Sampled, above, below, near
from alignlab.papers.tabular import Array, sigmoid
from alignlab.statistics.ratings import SCALE, bradley_terry

Indices = NDArray[np.int64]

_MODELS = [f"model {i}" for i in range(6)]
_TRUE: Array = np.array([1100.0, 1060.0, 1020.0, 980.0, 940.0, 900.0])


def _battles(rng: np.random.Generator, count: int) -> tuple[Indices, Indices, Array]:
    """(index of a, index of b, 1 if a won) of `count` battles between two different models."""
    a = rng.integers(6, size=count)
    b = (a + rng.integers(1, 6, size=count)) % 6
    return a, b, (rng.random(count) < sigmoid((_TRUE[a] - _TRUE[b]) / SCALE)).astype(np.float64)


def elo(a: Indices, b: Indices, won: Array, *, k: float = 4.0) -> Array:
    """[6] ratings after a sequence of battles; each moves two ratings by up to k."""
    ratings = np.full(6, 1000.0)
    for i, j, result in zip(a, b, won, strict=True):
        step = k * (result - 1 / (1 + 10 ** ((ratings[j] - ratings[i]) / 400)))
        ratings[i] += step
        ratings[j] -= step
    return ratings


def _named(index: Indices) -> list[str]:
    return [_MODELS[i] for i in index]


def order_of_battles(seed: int) -> dict[str, float]:
    """How much ratings from 2,000 battles differ between ten orders of the same battles, in points."""
    rng = np.random.default_rng([seed, 9])
    a, b, won = _battles(rng, 2000)
    orders = [rng.permutation(2000) for _ in range(10)]
    running = np.std([elo(a[o], b[o], won[o]) for o in orders], axis=0, ddof=1)
    fits = [bradley_terry(_named(a[o]), _named(b[o]), won[o], draws=2).table for o in orders[:3]]
    fitted = np.ptp([[fit[name].value for name in _MODELS] for fit in fits], axis=0)
    return {"spread of Elo": float(running.mean()), "spread of Bradley-Terry": float(fitted.max())}


def coverage(seed: int) -> dict[str, float]:
    """The share of true ratings that lie in their 95 % bootstrap intervals, over ten sets of 1,000 battles."""
    rng = np.random.default_rng([seed, 10])
    inside = []
    for _ in range(10):
        a, b, won = _battles(rng, 1000)
        table = bradley_terry(_named(a), _named(b), won, draws=200, seed=seed).table
        inside += [table[name].low <= true <= table[name].high for name, true in zip(_MODELS, _TRUE, strict=True)]
    return {"coverage": float(np.mean(inside))}


PAPER = Paper(
    name="chiang_2024",
    title="Chatbot Arena: An Open Platform for Evaluating LLMs by Human Preference",
    authors="Chiang et al. 2024",
    url="https://arxiv.org/abs/2403.04132",
    claims=(
        Claim(
            name="order-of-battles",
            words="Bradley-Terry ratings do not depend on the order of the battles; a running Elo does.",
            source="the choice of Bradley-Terry over online Elo",
            expected=(
                below("spread of Bradley-Terry", 1e-4, "derived"),
                above("spread of Elo", 5.0, "derived"),
            ),
            measured_by=Sampled(order_of_battles),
            deviations=("Paper: votes on 50 models. Here: 2,000 simulated battles of 6 models.",),
        ),
        Claim(
            name="bootstrap-coverage",
            words="95 % bootstrap intervals of the ratings contain the true ratings in 95 % of the cases.",
            source="confidence intervals of the ratings",
            expected=(near("coverage", 0.95, 0.04, "derived"),),
            measured_by=Sampled(coverage),
            deviations=("Here: 1,000 simulated battles of 6 models with known ratings; 200 bootstrap samples.",),
        ),
    ),
)
