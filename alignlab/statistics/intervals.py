"""Estimates with intervals: shares with ties, means over clusters, bootstrap samples.

A cluster is a prompt. Several answers to one prompt are not independent, so prompts are counted instead of rows.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """An estimate with its standard error, its interval [low, high], and n, the number of clusters (prompts)."""

    value: float
    standard_error: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    def __format__(self, form: str) -> str:
        """`0.621 [0.580, 0.660]`: the value and its interval, each number in the given format."""
        form = form or ".3f"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"

    def __str__(self) -> str:
        return format(self)


NOTHING = Estimate(float("nan"), float("nan"), float("nan"), float("nan"), 0)


def cluster_codes(clusters: Sequence[Hashable] | None, rows: int) -> tuple[Codes, int]:
    """(int64[rows], a number from 0 on for the cluster of each row; number of clusters).

    clusters: [rows] name of each row's cluster. If it is None, every row is its own cluster.
    Raises ValueError if the number of names is not `rows`.
    """
    if clusters is None:
        return np.arange(rows), rows
    if len(clusters) != rows:
        raise ValueError(f"{rows} rows and {len(clusters)} cluster names")
    numbers: dict[Hashable, int] = {}
    codes = np.array([numbers.setdefault(name, len(numbers)) for name in clusters], dtype=np.int64)
    return codes, len(numbers)


def chosen(names: Sequence[Hashable] | None, mask: NDArray[np.bool_]) -> list[Hashable] | None:
    """The names for which the mask is True. None if `names` is None."""
    return None if names is None else [name for name, kept in zip(names, mask, strict=True) if kept]


def normal_quantile(level: float) -> float:
    """z with P(|Z| <= z) = level."""
    return float(scipy.special.ndtri((1 + level) / 2))


def t_quantile(level: float, clusters: int) -> float:
    """t with P(|T| <= t) = level, where T has Student's distribution with clusters - 1 degrees of freedom.

    It is infinite for fewer than two clusters.
    """
    return float(scipy.special.stdtrit(clusters - 1, (1 + level) / 2)) if clusters > 1 else float("inf")


def share_interval(wins: float, ties: float, losses: float, *, level: float = 0.95) -> Estimate:
    """Win-rate (wins + ties / 2) / n from counts of independent rows, n = wins + ties + losses.

    2 x win-rate - 1 is a difference of two matched proportions, so the interval is Tango's score interval (1998,
    Statistics in Medicine 17:891), with its restricted estimate of the loss rate. Without ties it is Wilson's interval
    (1927, https://doi.org/10.1080/01621459.1927.10502953). Counts may be fractions, such as effective numbers of rows.
    Raises ValueError if a count is negative. Without rows all numbers of the result are NaN.
    """
    n = wins + ties + losses
    if min(wins, ties, losses) < 0:
        raise ValueError(f"counts must not be negative: {wins} wins, {ties} ties, {losses} losses")
    if n == 0:
        return NOTHING
    difference = (wins - losses) / n
    variance = ((wins + losses) / n - difference**2) / n
    z = normal_quantile(level)
    return Estimate(
        value=(1 + difference) / 2,
        standard_error=float(np.sqrt(variance)) / 2,
        low=(1 - _tango_upper(losses, wins, n, z)) / 2,
        high=(1 + _tango_upper(wins, losses, n, z)) / 2,
        n=round(n),
    )


def _tango_upper(b: float, c: float, n: float, z: float) -> float:
    """Largest d = P(win) - P(loss) with |b - c - n d| <= z sqrt(n (2 q + d (1 - d))), for b wins and c losses of n.

    q is the estimate of the loss rate, given d.
    """

    def beyond(d: float) -> float:
        half = (2 * n - b + c) * d - b - c
        root = (np.sqrt(max(0.0, half**2 + 8 * n * c * d * (1 - d))) - half) / (4 * n)
        q = max(root, -d, 0.0)  # loss rate given d; rounding could put it below its lower limit
        return float(n * d - (b - c) - z * np.sqrt(n * (2 * q + d * (1 - d))))

    start = (b - c) / n + 1e-9  # just above the estimate, which is itself a root if the variance is 0
    return 1.0 if b >= n else float(scipy.optimize.brentq(beyond, start, 1.0, xtol=1e-12))


_ROUNDING = 1e-24  # a variance of a mean of scores below this is a rounding error


def score_interval(scores: ArrayLike, clusters: Sequence[Hashable] | None = None, *, level: float = 0.95) -> Estimate:
    """Mean of scores in [0, 1], with a score interval (like Wilson's) that accounts for ties and clusters.

    - If all scores are 0, 1/2 or 1, they are counted as losses, ties and wins. If rows share clusters, the counts are
      divided by the design effect.
    - For other scores, the counts are those of as many independent yes-or-no rows as give the same standard error.

    Effective sizes: Franco et al. 2019, https://doi.org/10.1093/jssam/smy019, adjusted for few clusters by (t / z)^2.

    scores:   [R].
    clusters: [R] name of each row's cluster; None if every row is its own cluster.
    Raises ValueError if a score is not in [0, 1]. Without rows all numbers of the result are NaN.
    """
    values = np.asarray(scores, dtype=np.float64)
    n = len(values)
    if n == 0:
        return NOTHING
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("scores must lie in [0, 1]")
    codes, groups = cluster_codes(clusters, n)
    mean = values.mean()
    clustered = _sum_variance(values - mean, codes, groups) / n**2
    clustered = clustered if clustered > _ROUNDING else 0.0  # equal scores have no variance
    counts = np.array([(values == 1).sum(), (values == 0.5).sum(), (values == 0).sum()], dtype=np.float64)
    few = (t_quantile(level, groups) / normal_quantile(level)) ** 2 if 1 < groups < n else 1.0
    if counts.sum() < n:
        size = mean * (1 - mean) / clustered if clustered > 0 else groups
        counts = np.array([mean, 0.0, 1 - mean]) * size
        few = (t_quantile(level, groups) / normal_quantile(level)) ** 2 if groups > 1 else 1.0
    elif groups < n:
        alone = _sum_variance(values - mean, np.arange(n), n) / n**2
        counts /= clustered / alone if clustered > 0 else n / groups
    found = share_interval(*(counts / few), level=level)
    return Estimate(float(mean), float(np.sqrt(clustered)), found.low, found.high, groups)


def mean_interval(
    values: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    all_clusters: bool = False,
    least: float = -math.inf,
) -> Estimate:
    """Mean over rows with Student's interval, mean ± t se. The bounds are NaN for fewer than two rows or clusters.

    Without clusters, se = s / √n. With clusters, se is that of a ratio of cluster sums. t has as many degrees of
    freedom as there are rows (or clusters), minus 1.

    least: smallest possible value of a row, such as 0 for a number of tokens. The interval is cut there. The mean of
           all rows that could be drawn is not smaller, so the interval holds it as often as before. For values in
           [0, 1] use `score_interval`: it does not shrink to a point if all rows are 0.
    all_clusters: the clusters are all that there are, not a sample of them (the prompts of the lab). Then only the rows
                  of each cluster vary (`_stratified`). If a cluster has one row, its variance is not known, and the
                  interval is that of a sample of clusters, which is wider.
    """
    data = np.asarray(values, dtype=np.float64)
    if len(data) == 0:
        return NOTHING
    codes, groups = cluster_codes(clusters, len(data))
    if all_clusters and np.bincount(codes).min() > 1:
        found = _stratified(data, codes, groups, level)
        return replace(found, low=float(np.maximum(found.low, least)))
    mean, t = float(data.mean()), t_quantile(level, groups)
    if groups < 2:
        return Estimate(mean, float("nan"), float("nan"), float("nan"), groups)
    if clusters is None:
        spread, root = float(data.std(ddof=1)), math.sqrt(groups)
        error, half = spread / root, t * spread / root
    else:
        error = float(np.sqrt(_sum_variance(data - mean, codes, groups))) / len(data)
        half = t * error
    return Estimate(mean, error, float(np.maximum(mean - half, least)), mean + half, groups)


def _stratified(data: Array, codes: Codes, groups: int, level: float) -> Estimate:
    """Mean over rows of a stratified sample: se^2 = sum over strata of n_h s_h^2 / N^2.

    t has Satterthwaite's degrees of freedom (Cochran 1977, Sampling Techniques, equations 5.9 and 5.16).
    """
    counts = np.bincount(codes, minlength=groups).astype(np.float64)
    centred = data - (np.bincount(codes, weights=data, minlength=groups) / counts)[codes]
    parts = counts * np.bincount(codes, weights=centred**2, minlength=groups) / (counts - 1)
    total, mean = float(parts.sum()), float(data.mean())
    if total == 0:
        return Estimate(mean, 0.0, mean, mean, groups)
    freedom = total**2 / float((parts**2 / (counts - 1)).sum())
    error = math.sqrt(total) / len(data)
    half = float(scipy.special.stdtrit(freedom, (1 + level) / 2)) * error
    return Estimate(mean, error, mean - half, mean + half, groups)


def _sum_variance(centred: Array, codes: Codes, groups: int) -> float:
    """Variance of the sum of centred values [R] with independent clusters. `codes` [R] are the rows' clusters."""
    if groups < 2:
        return 0.0
    sums = np.bincount(codes, weights=centred, minlength=groups)
    return float((sums**2).sum()) * groups / (groups - 1)


def resampled_sums(totals: Array, draws: int, *, seed: int = 0) -> Array:
    """Bootstrap samples of sums: [G, K] sums by cluster -> [draws, K] sums over G clusters sampled with replacement."""
    generator, groups = np.random.default_rng(seed), len(totals)
    block = max(1, 2_000_000 // groups)  # bootstrap samples at a time; it limits the memory
    sums = []
    for done in range(0, draws, block):
        rows = min(block, draws - done)
        sampled = generator.integers(groups, size=(rows, groups)) + groups * np.arange(rows)[:, None]
        times = np.bincount(sampled.ravel(), minlength=rows * groups).reshape(rows, groups)
        sums.append(times.astype(np.float64) @ totals)
    return np.concatenate(sums)


def bootstrap_mean(
    values: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """Mean over rows [R], with a percentile interval over resampled clusters.

    clusters: [R] name of each row's cluster; None if every row is its own cluster.
    draws:    number of bootstrap samples.
    bounds:   smallest and largest possible value of a row. They matter only if all clusters agree (`_of_equals`). None:
              [0, 1] or [-1, 1] if it holds all values, otherwise values are unbounded.
    For a paired interval of the difference between two runs, use `winrate.paired_difference`.
    """
    data = np.asarray(values, dtype=np.float64)
    if len(data) == 0:
        return NOTHING
    codes, groups = cluster_codes(clusters, len(data))
    totals = np.zeros((groups, 2))  # of values, of rows
    np.add.at(totals, codes, np.stack([data, np.ones_like(data)], axis=1))
    means = totals[:, 0] / totals[:, 1]
    if groups > 1 and np.ptp(means) <= _SAME * np.abs(means).max():
        return _of_equals(float(data.mean()), groups, bounds or _bounds_of(data), level)
    sums = resampled_sums(totals, draws, seed=seed)
    return from_draws(float(data.mean()), sums[:, 0] / sums[:, 1], groups, level=level)


_SAME = 1e-12  # clusters whose means differ by a smaller share agree


def _bounds_of(values: Array) -> tuple[float, float]:
    """The smallest of [0, 1], [-1, 1] and all numbers that holds the values."""
    lowest, highest = float(values.min()), float(values.max())
    known = ((0.0, 1.0), (-1.0, 1.0))
    return next((b for b in known if b[0] <= lowest and highest <= b[1]), (-math.inf, math.inf))


def _of_equals(value: float, groups: int, bounds: tuple[float, float], level: float) -> Estimate:
    """The estimate if all clusters have the mean `value`, so that their spread is not known.

    Clusters that were not drawn may differ. Wilson's upper limit of the share of such clusters is z^2 / (n + z^2) after
    none of n; each of them has at most the largest possible value. For 0 wins of n this is Wilson's interval. Without
    bounds the interval is infinite: nothing is known about the size of a difference that was never seen.
    """
    z = normal_quantile(level)
    share = z**2 / (groups + z**2)
    low, high = (value + share * (bound - value) for bound in bounds)
    return Estimate(value, float("nan"), min(low, value), max(high, value), groups)


def from_draws(value: float, draws: ArrayLike, groups: int, *, level: float = 0.95) -> Estimate:
    """`value` with the percentile interval of bootstrap samples `draws`, widened for few clusters (`groups`).

    Hesterberg 2015, https://arxiv.org/abs/1411.5279 ("expanded percentile"): quantiles at Phi(-t sqrt(n / (n - 1))).
    """
    data: Any = np.asarray(draws, dtype=np.float64)
    if groups < 2:
        return Estimate(value, float("nan"), float("nan"), float("nan"), groups)
    tail = float(scipy.special.ndtr(-t_quantile(level, groups) * np.sqrt(groups / (groups - 1))))
    low, high = np.quantile(data, [tail, 1 - tail])
    return Estimate(value, float(data.std(ddof=1)), float(low), float(high), groups)
