"""Exact tests of whether two runs differ on the same prompts, and corrections for many tests."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from alignlab.statistics.intervals import Estimate, cluster_codes
from alignlab.statistics.winrate import paired_difference


@dataclass(frozen=True)
class SignTest:
    """Number of prompts on which the first run is better, worse or equal, and the two-sided p-value."""

    better: int
    worse: int
    equal: int
    p_value: float


def sign_test(x: ArrayLike, y: ArrayLike, prompts: Sequence[Hashable] | None = None) -> SignTest:
    """Exact sign test: is one run better on more than half of the prompts on which the runs differ?

    x, y:    [R] scores of the two runs on the same rows. Rows of one prompt are summed first. A row with NaN in one of
             them is left out.
    prompts: [R] name of each row's prompt; None if every row has its own.
    With scores of 0 and 1 this is the exact McNemar test (McNemar 1947, https://doi.org/10.1007/BF02295996).
    """
    difference = np.asarray(x, dtype=np.float64) - np.asarray(y, dtype=np.float64)
    codes, groups = cluster_codes(prompts, len(difference))
    valid = ~np.isnan(difference)
    sums = np.bincount(codes[valid], weights=difference[valid], minlength=groups)
    has_rows = np.bincount(codes[valid], minlength=groups) > 0
    signs = np.sign(np.round(sums, 12))[has_rows]  # a sum of 0 must not get a sign from rounding errors
    better, worse = int((signs > 0).sum()), int((signs < 0).sum())
    return SignTest(better, worse, int((signs == 0).sum()), _two_sided(better, worse))


def mcnemar(x: ArrayLike, y: ArrayLike, prompts: Sequence[Hashable] | None = None) -> SignTest:
    """Exact McNemar test of wins: `sign_test` of whether a score is above 1/2, so ties count as not won."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    won = [np.where(np.isnan(scores), np.nan, scores > 0.5) for scores in (a, b)]
    return sign_test(won[0], won[1], prompts)


def _two_sided(better: int, worse: int) -> float:
    """Probability of a split at least this uneven if both sides are equally likely."""
    return min(1.0, 2 * float(scipy.special.bdtr(min(better, worse), better + worse, 0.5)))


def holm(p_values: ArrayLike) -> list[float]:
    """Adjusted p-values of a family of tests, in the given order.

    Holm 1979, https://www.jstor.org/stable/4615733: the k-th smallest of m p-values is multiplied by m - k + 1, and the
    adjusted values never decrease. If hypotheses are rejected when the adjusted value is below a level, the probability
    of rejecting any true hypothesis of the family is at most that level.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


@dataclass(frozen=True)
class AgainstBase:
    """One run compared with the base of a sweep.

    difference: mean score of the run minus that of the base.
    adjusted_p: p-value of `test`, adjusted for all comparisons of the sweep.
    """

    run: str
    difference: Estimate
    test: SignTest
    adjusted_p: float


def compare_with(
    base: str, scores: Mapping[str, ArrayLike], prompts: Sequence[Hashable] | None = None, *, level: float = 0.95
) -> list[AgainstBase]:
    """Compare every other run of a sweep with the run `base`: paired difference, sign test, Holm's correction.

    scores:  run -> [R] scores on the same rows, such as win-rates against one baseline.
    prompts: [R] name of each row's prompt; None if every row has its own.
    The intervals of the differences are not corrected.
    """
    others = [run for run in scores if run != base]
    tests = [sign_test(scores[run], scores[base], prompts) for run in others]
    adjusted = holm([test.p_value for test in tests])
    return [
        AgainstBase(run, paired_difference(scores[run], scores[base], prompts, level=level), test, p)
        for run, test, p in zip(others, tests, adjusted, strict=True)
    ]
