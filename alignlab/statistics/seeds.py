"""Statistics over seeds: the mean of a setting with an interval, which settings are tied with the best, and how many
more seeds would separate them.

All intervals and tests use Student's t, so the metric is assumed to be normally distributed over seeds. If rare seeds
are much better or worse than the others, few seeds miss them, and the intervals are too short (docs/evaluation.md has
numbers). Settings are compared seed by seed: the same seed gives both the same rows, and its common effect on both
cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignlab.statistics.intervals import Estimate, mean_interval, normal_quantile
from alignlab.statistics.power import pairs_needed

LEVEL, POWER = 0.95, 0.8

# (values of a setting, one for each seed, level) -> their mean with its interval. A value is a number, or [P] numbers,
# one for each prompt.
Interval = Callable[[Sequence[Any], float], Estimate]

# The search for a number of seeds stops here.
MOST_SEEDS = 10_000


def over_seeds(values: Sequence[Any], level: float = LEVEL) -> Estimate:
    """An `Interval` of numbers: Student's, over seeds."""
    return mean_interval(values, level=level)


@dataclass(frozen=True)
class Comparison:
    """A setting compared with the best one.

    difference: the setting's metric minus the best setting's, over the seeds that both have. Its level is that
                of `compare_with_best`. None for the best setting itself.
    tied:       whether the setting may be as good as the best: its interval does not lie on the worse side of 0, or it
                is the best. None if that is unknown, because the two share fewer than two seeds. If no setting has two
                seeds, an interval over prompts decides, if there is one.
    more_seeds: how many more shared seeds would separate the two settings. None if they are separated already, if it is
                unknown, or if it would take more than MOST_SEEDS seeds.
    """

    difference: Estimate | None
    tied: bool | None
    more_seeds: int | None


def compare_with_best(
    settings: Mapping[str, Mapping[str, Any]],
    *,
    lower_is_better: bool,
    level: float = LEVEL,
    least: float = 0.0,
    candidates: Collection[str] | None = None,
    comparisons: int | None = None,
    rows: int | None = None,
    interval_of: Interval = over_seeds,
) -> tuple[str | None, dict[str, Comparison]]:
    """(name of the setting with the best mean, name -> comparison of each setting with it).

    settings:    name -> seed -> metric, a number or [P] numbers by prompt.
    least:       settings whose means differ by less than this are tied, even if the difference is significant.
    candidates:  settings that can be the best; None allows all of them. Without a candidate nothing is compared, and
                 the result is (None, {}).
    comparisons: number of comparisons that `level` holds for at once; None counts the comparisons made here.
    rows:        number of rows that the metric is a share of (held-out pairs), if it is one. All runs share the rows,
                 so seeds do not show how other rows would differ. A difference d between shares has a variance of
                 (|d| - d^2) / rows at least (that of McNemar's test, if all rows that differ favour one setting),
                 and the interval includes it.
    interval_of: interval of the differences.

    Only settings with the largest number of seeds can be the best. Means over different seeds can't be compared: a
    setting whose bad seeds failed would look good.

    Each of the k - 1 intervals has level 1 - (1 - level) / (k - 1) (Bonferroni). So the truly best setting is among the
    tied ones with probability `level` or more. It is missing only if another setting seems better by more than the
    interval allows. For each of the k - 1 others this has probability (1 - level) / (k - 1) at most. That is all:
    the best was chosen by the same numbers, so if all settings are equal, one of ten is found to be worse than the one
    that seems best more often than with probability 1 - level (docs/evaluation.md).
    """
    can_be = {name: seeds for name, seeds in settings.items() if candidates is None or name in candidates}
    most = max((len(seeds) for seeds in can_be.values()), default=0)
    if most == 0:
        return None, {}
    sign = 1.0 if lower_is_better else -1.0
    full = {name: sign * float(np.mean(list(s.values()))) for name, s in can_be.items() if len(s) == most}
    best = min(full, key=lambda name: full[name])
    count = sum(bool(seeds) for seeds in settings.values()) - 1 if comparisons is None else comparisons
    each = 1 - (1 - level) / max(1, count)
    compared: dict[str, Comparison] = {}
    for name, seeds in settings.items():
        if name == best:
            compared[name] = Comparison(None, True, None)
            continue
        differences = paired(seeds, settings[best])
        by_seed = interval_of(differences, each)
        interval = _with_rows(by_seed, rows, each)
        worse = interval.low > 0 if lower_is_better else interval.high < 0
        too_little = abs(interval.value) < least
        known = interval.n > 1 and (len(differences) > 1 or most == 1)  # one seed's interval over prompts has n > 1
        tied = (not worse or too_little) if known else None
        means = [float(np.mean(d)) for d in differences]
        seeds_decide = by_seed.low <= 0 <= by_seed.high  # otherwise more rows are needed, not more seeds
        more = seeds_to_separate(means, level=each) if tied and seeds_decide and not too_little else None
        compared[name] = Comparison(interval, tied, None if more is None else max(1, more - len(means)))
    return best, compared


def _with_rows(interval: Estimate, rows: int | None, level: float) -> Estimate:
    """The interval of a difference between shares of the same `rows`, with the variance that it has over rows."""
    if rows is None or not interval.n > 1:
        return interval
    difference = min(1.0, abs(interval.value))
    error = math.sqrt((difference - difference**2) / rows)
    half = math.hypot(interval.half, normal_quantile(level) * error)
    low, high = interval.value - half, interval.value + half
    return Estimate(interval.value, math.hypot(interval.standard_error, error), low, high, interval.n)


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean of the values without the smallest and the largest quarter (rounded down); NaN without values.

    One lucky or unlucky seed does not move it. With fewer than four values it is the mean. Agarwal et al. 2021,
    https://arxiv.org/abs/2108.13264.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean()) if len(ordered) else float("nan")


def probability_of_improvement(better: Sequence[float], worse: Sequence[float], *, lower_is_better: bool) -> float:
    """Share of all pairs of a value of each in which that of `better` is better, ties 1/2; NaN without pairs.

    It estimates how likely a run of the one setting is better than a run of the other (Agarwal et al. 2021). It is the
    statistic of the Mann-Whitney test, divided by the number of pairs.
    """
    if not len(better) or not len(worse):
        return float("nan")
    difference = np.subtract.outer(np.asarray(better, dtype=np.float64), np.asarray(worse, dtype=np.float64))
    gains = -difference if lower_is_better else difference
    return float((gains > 0).mean() + (gains == 0).mean() / 2)


def paired(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Any]:
    """a - b for every seed that both have."""
    return [a[seed] - b[seed] for seed in a if seed in b]


def seeds_to_separate(differences: Sequence[float], *, level: float = LEVEL, power: float = POWER) -> int | None:
    """Smallest number of seeds with which a two-sided paired t test separates two settings with probability `power`.

    The true mean and standard deviation of the differences are assumed to be the observed ones. None if there are fewer
    than two differences, if their mean is 0, or if more than MOST_SEEDS seeds would be needed.
    """
    if len(differences) < 2:
        return None
    mean, spread = float(np.mean(differences)), float(np.std(differences, ddof=1))
    return pairs_needed(mean, spread, chance=power, level=level, most=MOST_SEEDS)
