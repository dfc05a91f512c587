"""Spearman's rank correlation."""

from __future__ import annotations

from numpy.typing import ArrayLike


def rank_correlation(one: ArrayLike, other: ArrayLike) -> float:
    """Correlation of the ranks of two samples of equal length, from -1 to 1. Equal values share their mean rank."""
    from scipy.stats import spearmanr  # its import takes a second

    return float(spearmanr(one, other).statistic)
