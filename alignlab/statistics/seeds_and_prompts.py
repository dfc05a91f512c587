"""Means over seeds and prompts together: all seeds of a setting answer the same prompts.

A value is random in two ways: another seed would give another policy, and other prompts would give other values. More
prompts do not show how seeds differ, and more seeds do not show how prompts differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from alignlab.statistics.intervals import NOTHING, Estimate, mean_interval, share_interval, t_quantile

_NO_SPREAD = 1e-9  # half of an interval that is a rounding error


@dataclass(frozen=True)
class Crossed:
    """An `Interval` (alignlab/statistics/seeds.py) of [P] numbers by prompt for each of S seeds.

    all_prompts: the prompts are all that there are, not a sample of them, so they add no uncertainty.
    """

    all_prompts: bool = False

    def __call__(self, values: Sequence[ArrayLike], level: float) -> Estimate:
        """Mean of S rows [P] with an interval over seeds and prompts together.

        Value = mean + seed + prompt + rest. The variance of the mean over seeds, A = Var(means of seeds) / S, holds the
        parts of seeds and of the rest; B = Var(means of prompts) / P those of prompts and of the rest; C is the rest
        alone. The half width is √(t²_{S-1} A + t²_{P-1} max(0, B - C)), where each t has the degrees of freedom of its
        part (method of variance estimates recovery, Zou and Donner 2008, https://doi.org/10.1002/sim.3095). n is the
        number of seeds.

        With one seed the interval is over prompts, and n is their number: it says nothing about other seeds.
        """
        if not len(values):
            return NOTHING
        table = np.asarray(values, dtype=np.float64)
        seeds, prompts = table.shape
        if seeds == 1:
            return mean_interval(table[0], level=level)
        of_seeds = mean_interval(table.mean(axis=1), level=level)
        if self.all_prompts or prompts == 1:
            return of_seeds
        of_prompts = mean_interval(table.mean(axis=0), level=level).standard_error ** 2
        rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
        alone = float((rest**2).sum()) / ((seeds - 1) * (prompts - 1)) / (seeds * prompts)
        added = max(0.0, of_prompts - alone)
        half = math.hypot(of_seeds.half, t_quantile(level, prompts) * math.sqrt(added))
        error = math.hypot(of_seeds.standard_error, math.sqrt(added))
        return Estimate(of_seeds.value, error, of_seeds.value - half, of_seeds.value + half, seeds)


def over_seeds_and_prompts(values: Sequence[Any], level: float, *, all_prompts: bool = False) -> Estimate:
    """An `Interval` of numbers by seed, or of [P] numbers by prompt for each seed.

    Numbers have an interval over seeds, and numbers by prompt one over seeds and prompts (`Crossed`). A single seed has
    no interval, because it says nothing about other seeds.

    all_prompts: as for `Crossed`.
    """
    if len(values) > 1 and np.ndim(values[0]) == 1:
        return Crossed(all_prompts)(values, level)
    return mean_interval([float(np.mean(value)) for value in values], level=level)


def pooled_rate(rates: Sequence[ArrayLike], level: float = 0.95, *, all_prompts: bool = False) -> Estimate:
    """Mean of S rows [P] of rates in [0, 1], such as win-rates, with an interval over seeds and prompts together.

    It is that of `Crossed`, but never leaves [0, 1]. If no spread is seen, neither over seeds nor over prompts, it is
    Wilson's interval of as many wins of P prompts (of S P answers, if `all_prompts`). n is the number of seeds.
    Raises ValueError if a rate is not in [0, 1].
    """
    if not len(rates):
        return NOTHING
    table = np.asarray(rates, dtype=np.float64)
    if not ((table >= 0) & (table <= 1)).all():
        raise ValueError("rates must lie in [0, 1]")
    found = Crossed(all_prompts)(list(table), level)
    if found.half < _NO_SPREAD:
        rows = table.size if all_prompts else table.shape[1]
        found = share_interval(found.value * rows, 0.0, (1 - found.value) * rows, level=level)
    low, high = (float(np.clip(end, 0.0, 1.0)) for end in (found.low, found.high))
    return Estimate(found.value, found.standard_error, low, high, len(table))
