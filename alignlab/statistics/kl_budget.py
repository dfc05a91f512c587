"""Rewards of methods at equal KL.

A method is a set of settings that differ only in their strength, such as one objective with several betas. More reward
at more KL does not make a method better, so methods are compared at KLs that all of them reached. A method's settings,
ordered by KL, form a curve of mean reward against mean KL. The curve is linear between settings: a mixture of two
policies has that reward, and at most that KL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignlab.statistics.intervals import Estimate
from alignlab.statistics.seeds import LEVEL, Comparison, Interval, compare_with_best, over_seeds

# KLs that differ by a smaller factor count as equal.
SAME_KL = 1.25

# Between settings whose KLs differ by a larger factor, a line may be far below what the method reaches there.
WIDE = 4.0

# KLs are not compared if a method moved less than this (nats): nothing was learnt there.
LEAST_KL = 0.01

# The KLs that are compared, as shares of the largest KL that all methods reached.
_SHARES = (0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Setting:
    """KL (nats) and reward of a setting by seed. `start` is the reward of the policy before training, if known.

    A value is a number, or [P] numbers, one for each prompt.
    """

    kl: Mapping[str, Any]
    reward: Mapping[str, Any]
    start: Mapping[str, Any]

    @property
    def mean_kl(self) -> float:
        return float(np.mean([self.kl[seed] for seed in self.seeds]))

    @property
    def seeds(self) -> list[str]:
        return [seed for seed in self.kl if seed in self.reward]


@dataclass(frozen=True)
class Budget:
    """Methods at one KL.

    kl:          nats.
    rewards:     method -> reward at this KL, with an interval over seeds.
    gains:       method -> reward minus that of the start; empty if the start's reward is not known.
    best:        None if no method is known to be better than the start.
    comparisons: method -> its comparison with the best.
    sparse:      method -> (KL of its next setting below, KL of the next above), nats, if these are further apart than
                 by a factor of WIDE. Its reward here may be too low: the most that a method can reach is concave in KL.
    """

    kl: float
    rewards: Mapping[str, Estimate]
    gains: Mapping[str, Estimate]
    best: str | None
    comparisons: Mapping[str, Comparison]
    sparse: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Budgets:
    """Methods at the KLs that all of them reached.

    ranges:  family -> (smallest, largest) mean KL of its settings, nats.
    budgets: smallest KL first; empty if there is no common KL.
    """

    ranges: Mapping[str, tuple[float, float]]
    budgets: Sequence[Budget]


def same_kl(one: float, other: float) -> bool:
    """Whether two KLs count as equal. A sampled KL that is not positive is equal to none but itself."""
    low, high = sorted((one, other))
    return low == high or (low > 0 and high <= SAME_KL * low)


def reward_at(curve: Sequence[Setting], kl: float) -> dict[str, Any]:
    """seed -> reward of a method at a KL; empty if the curve does not reach the KL.

    The mean over seeds is the value of the curve of means.

    curve: the settings of a method. If their start's reward is known, the curve begins there, at a KL of 0. `kl` may be
           below the smallest KL of the settings by a factor of SAME_KL, but not above the largest. {} also if the
           seeds that two neighbours share have other mean KLs than all of their seeds, and do not enclose `kl`.

    Settings i and j are next to `kl` on the curve, and b is its slope there. A seed with a KL of its own is moved along
    the slope: (1 - w) (r_i - b (KL_i - m_i)) + w (r_j - b (KL_j - m_j)), where m are means over seeds. So the values of
    the seeds have the variance of the interpolated reward (delta method). Nothing is interpolated between seeds.
    """
    known = sorted((s for s in curve if s.seeds), key=lambda s: s.mean_kl)
    if not known or not known[0].mean_kl / SAME_KL <= kl <= known[-1].mean_kl * (1 + 1e-9):
        return {}
    first = known[0]
    if first.start and first.mean_kl > 0:
        known = [Setting({seed: 0.0 * value for seed, value in first.start.items()}, first.start, first.start), *known]
    after = next((i for i, s in enumerate(known) if s.mean_kl >= kl), len(known) - 1)
    upper = known[after]
    lower = known[max(after - 1, 0)]
    seeds = [seed for seed in upper.seeds if seed in lower.seeds]
    if not seeds:
        return {}
    (low, start), (high, end) = (_means(s, seeds) for s in (lower, upper))
    if lower is not upper and not low * (1 - 1e-9) <= kl <= high * (1 + 1e-9):
        return {}
    slope = (end - start) / (high - low) if high > low else 0.0
    weight = (kl - low) / (high - low) if high > low else 1.0
    return {
        seed: (1 - weight) * (lower.reward[seed] - slope * (lower.kl[seed] - low))
        + weight * (upper.reward[seed] - slope * (upper.kl[seed] - high))
        for seed in seeds
    }


def _means(setting: Setting, seeds: Sequence[str]) -> tuple[float, float]:
    """(mean KL, mean reward) over some seeds."""
    return tuple(float(np.mean([of[seed] for seed in seeds])) for of in (setting.kl, setting.reward))  # type: ignore[return-value]


def _sparse(curve: Sequence[Setting], kl: float) -> tuple[float, float] | None:
    """KLs of the settings next to `kl`, if none is near it and they are further apart than by a factor of WIDE."""
    kls = [setting.mean_kl for setting in curve if setting.seeds]
    if any(same_kl(kl, own) for own in kls):
        return None
    low, high = max((own for own in kls if own <= kl), default=kl), min((own for own in kls if own > kl), default=kl)
    return (low, high) if high > WIDE * low else None


def at_common_kls(
    curves: Mapping[str, Sequence[Setting]],
    families: Mapping[str, str],
    interval_of: Interval = over_seeds,
    *,
    least: float = 0.0,
) -> Budgets:
    """Compare methods at KLs that every family with results reached. All intervals hold at once (Bonferroni).

    curves:   method -> its settings.
    families: method -> its family. Methods of one family are variants, such as one objective with several learning
              rates. A family reached a KL if one of its methods did.
    If no KL is within the settings of one method of each family, all settings of a family form one curve.
    least:    differences of mean rewards below this count as ties.
    A method is called best only if its reward is not known to be as low as the start's.
    """
    kls: dict[str, list[float]] = {}
    for method, curve in curves.items():
        kls.setdefault(families[method], []).extend(s.mean_kl for s in curve if s.seeds)
    ranges = {family: (min(of), max(of)) for family, of in kls.items() if of}
    if len(ranges) < 2:
        return Budgets(ranges, [])
    most = min(high for _, high in ranges.values())
    found: dict[float, dict[str, dict[str, Any]]] = {}
    for kl in (share * most for share in _SHARES if most >= LEAST_KL):
        values = {method: at for method, curve in curves.items() if (at := reward_at(curve, kl))}
        if {families[method] for method in values} == ranges.keys():
            found[kl] = values
    if not found and len(kls) < len(curves):
        pooled: dict[str, list[Setting]] = {}
        for method, curve in curves.items():
            pooled.setdefault(families[method], []).extend(curve)
        return at_common_kls(pooled, {family: family for family in pooled}, interval_of, least=least)
    comparisons = sum(len(values) - 1 for values in found.values())
    starts = {method: _start(curve) for method, curve in curves.items()}
    budgets = []
    for kl, values in found.items():
        sparse = {method: gap for method in values if (gap := _sparse(curves[method], kl))}
        budgets.append(_budget(kl, values, starts, sparse, comparisons, least, interval_of))
    return Budgets(ranges, budgets)


def _start(curve: Sequence[Setting]) -> dict[str, Any]:
    return {seed: value for setting in curve for seed, value in setting.start.items()}


def _budget(
    kl: float,
    values: Mapping[str, Mapping[str, Any]],
    starts: Mapping[str, Mapping[str, Any]],
    sparse: Mapping[str, tuple[float, float]],
    comparisons: int,
    least: float,
    interval_of: Interval,
) -> Budget:
    gains = {
        method: interval_of(
            [value - starts[method][seed] for seed, value in of.items() if seed in starts[method]], LEVEL
        )
        for method, of in values.items()
    }
    gains = {method: gain for method, gain in gains.items() if gain.n}
    candidates = [m for m in values if m not in gains or (gains[m].low > 0 if gains[m].n > 1 else gains[m].value > 0)]
    best, compared = compare_with_best(
        values,
        lower_is_better=False,
        least=least,
        candidates=candidates,
        comparisons=comparisons,
        interval_of=interval_of,
    )
    rewards = {method: interval_of(list(of.values()), LEVEL) for method, of in values.items()}
    return Budget(kl, rewards, gains, best, compared, sparse)
