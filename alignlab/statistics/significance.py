"""Do two runs differ? Exact tests on the same prompts, corrected where there are many."""

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
    """Prompts on which one run did better, the other did, neither; and the two-sided p-value."""

    better: int
    worse: int
    equal: int
    p_value: float


def sign_test(x: ArrayLike, y: ArrayLike, prompts: Sequence[Hashable] | None = None) -> SignTest:
    """Exact sign test: of the prompts on which two runs differ, is either better on more than half?

    x, y: [R] scores on the same rows. Rows of a prompt are summed first; a row that is NaN in one is out of both.
    On scores of 0 and 1 this is the exact McNemar test (McNemar 1947, https://doi.org/10.1007/BF02295996).
    """
    difference = np.asarray(x, dtype=np.float64) - np.asarray(y, dtype=np.float64)
    codes, groups = cluster_codes(prompts, len(difference))
    valid = ~np.isnan(difference)
    sums = np.bincount(codes[valid], weights=difference[valid], minlength=groups)
    there = np.bincount(codes[valid], minlength=groups) > 0
    signs = np.sign(np.round(sums, 12))[there]  # thirds and tenths that cancel leave no dust
    better, worse = int((signs > 0).sum()), int((signs < 0).sum())
    return SignTest(better, worse, int((signs == 0).sum()), _two_sided(better, worse))


def mcnemar(x: ArrayLike, y: ArrayLike, prompts: Sequence[Hashable] | None = None) -> SignTest:
    """Exact McNemar test of wins against everything else: ties count as not won. As `sign_test` otherwise."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    won = [np.where(np.isnan(scores), np.nan, scores > 0.5) for scores in (a, b)]
    return sign_test(won[0], won[1], prompts)


def _two_sided(better: int, worse: int) -> float:
    """P of a split at least this uneven when heads and tails are equally likely."""
    return min(1.0, 2 * float(scipy.special.bdtr(min(better, worse), better + worse, 0.5)))


def holm(p_values: ArrayLike) -> list[float]:
    """Adjusted p-values of a family of tests, in the given order.

    Holm 1979, https://www.jstor.org/stable/4615733: the k-th smallest of m times m - k + 1, never falling. Reject where
    the adjusted one is below the level, and no true hypothesis of the family is rejected more often than that.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


@dataclass(frozen=True)
class AgainstBase:
    """One run against the base of a sweep."""

    run: str
    difference: Estimate
    test: SignTest
    adjusted_p: float


def compare_with(
    base: str, scores: Mapping[str, ArrayLike], prompts: Sequence[Hashable] | None = None, *, level: float = 0.95
) -> list[AgainstBase]:
    """Every other run of a sweep against one of them: paired difference, sign test, Holm over all of them.

    scores: run -> [R] scores on the same rows (win-rates against one baseline, say). The intervals are not corrected.
    """
    others = [run for run in scores if run != base]
    tests = [sign_test(scores[run], scores[base], prompts) for run in others]
    adjusted = holm([test.p_value for test in tests])
    return [
        AgainstBase(run, paired_difference(scores[run], scores[base], prompts, level=level), test, p)
        for run, test, p in zip(others, tests, adjusted, strict=True)
    ]
