"""Ratings of many runs from comparisons between them: Bradley and Terry 1952, https://doi.org/10.2307/2334029.

P(a beats b) = 1 / (1 + 10^((R_b - R_a) / 400)). A tie is half a win for each. Ratings are fitted by maximum likelihood,
so they do not depend on the order of the comparisons, unlike Elo's running average (Chiang et al. 2024,
https://arxiv.org/abs/2403.04132).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from alignlab.statistics.intervals import Array, Estimate, cluster_codes, from_draws, resampled_sums

SCALE = 400 / np.log(10)  # rating points per unit of log-odds


@dataclass(frozen=True)
class Ratings:
    """Ratings of runs. `table` maps a run's name to its rating with an interval, best run first."""

    table: dict[str, Estimate]

    def chance(self, a: str, b: str) -> float:
        """P(a is preferred to b) according to the ratings."""
        return float(expit((self.table[a].value - self.table[b].value) / SCALE))


def bradley_terry(
    a: Sequence[str],
    b: Sequence[str],
    scores: ArrayLike,
    prompts: Sequence[Hashable] | None = None,
    *,
    anchor: str | None = None,
    anchor_rating: float = 1000.0,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    ridge: float = 1e-3,
) -> Ratings:
    """Ratings from comparisons, with bootstrap intervals.

    a, b:    [R] names of the compared runs.
    scores:  [R] score of `a`: 1 won, 1/2 tied, 0 lost, or a value between; rows with NaN are left out.
    prompts: [R] clusters for the bootstrap; None if every comparison is its own cluster.
    anchor:  the run whose rating is `anchor_rating` (its interval is a point). None gives the mean of all runs that
             rating.
    draws:   number of bootstrap samples.
    ridge:   penalty on squared log-odds. It keeps the rating of a run that wins every comparison finite.

    Raises ValueError if the anchor is not among the runs, or if there are groups of runs without a comparison between
    them, because their ratings can't be compared.
    """
    y = np.asarray(scores, dtype=np.float64)
    valid = [int(i) for i in np.flatnonzero(~np.isnan(y))]
    names = sorted({*a, *b})
    if anchor is not None and anchor not in names:
        raise ValueError(f"the anchor {anchor} is not one of the compared runs: {', '.join(names)}")
    number = {name: i for i, name in enumerate(names)}
    left = np.array([number[a[i]] for i in valid], dtype=np.int64)
    right = np.array([number[b[i]] for i in valid], dtype=np.int64)
    _check_connected(left, right, names)
    codes, groups = cluster_codes(None if prompts is None else [prompts[i] for i in valid], len(valid))

    kinds, kind = np.unique(np.stack([left, right], axis=1), axis=0, return_inverse=True)
    played, won = np.zeros((groups, len(kinds))), np.zeros((groups, len(kinds)))  # [clusters, different pairs of runs]
    np.add.at(played, (codes, kind.ravel()), 1.0)
    np.add.at(won, (codes, kind.ravel()), y[valid])
    totals = np.concatenate([played, won], axis=1)
    sums = np.concatenate([totals.sum(0, keepdims=True), resampled_sums(totals, draws, seed=seed)])
    played, won = np.split(sums, 2, axis=1)
    ratings = SCALE * _strengths(kinds, played, won, len(names), ridge)
    ratings += anchor_rating - (ratings.mean(1) if anchor is None else ratings[:, number[anchor]])[:, None]
    table = {name: from_draws(float(ratings[0, i]), ratings[1:, i], groups, level=level) for name, i in number.items()}
    return Ratings(dict(sorted(table.items(), key=lambda item: -item[1].value)))


def _strengths(kinds: NDArray[np.int64], played: Array, won: Array, runs: int, ridge: float) -> Array:
    """[D, runs] log-odds of D data sets, by Newton's method.

    kinds:  [K, 2] the two runs of each of K pairs.
    played: [D, K] number of comparisons of each pair.
    won:    [D, K] wins of the first run of each pair.
    """
    theta = np.zeros((len(played), runs))
    sides = np.zeros((len(kinds), runs))  # +1 for the first, -1 for the second of a pair
    sides[np.arange(len(kinds)), kinds[:, 0]] += 1
    sides[np.arange(len(kinds)), kinds[:, 1]] -= 1
    for _ in range(100):
        chances = expit(theta @ sides.T)
        gradient = (played * chances - won) @ sides + ridge * theta
        curvature = played * chances * (1 - chances)
        hessian = np.einsum("dk,ki,kj->dij", curvature, sides, sides, optimize=True) + ridge * np.eye(runs)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        theta -= np.clip(step, -2.0, 2.0)  # far from the optimum Newton's steps overshoot
        if np.abs(step).max() < 1e-9:
            break
    return theta


def _check_connected(left: NDArray[np.int64], right: NDArray[np.int64], names: Sequence[str]) -> None:
    from scipy.sparse.csgraph import connected_components  # its import takes a third of a second

    met = np.zeros((len(names), len(names)))
    met[left, right] = 1
    count, group = connected_components(met, directed=False)
    if count > 1:
        apart = [", ".join(n for n, g in zip(names, group, strict=True) if g == k) for k in range(count)]
        raise ValueError(f"these runs were never compared with each other: {' | '.join(apart)}")
