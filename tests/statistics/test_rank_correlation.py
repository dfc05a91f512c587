"""Spearman's rank correlation against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from alignlab.statistics.rank_correlation import rank_correlation


def test_it_is_the_correlation_of_ranks() -> None:
    """Ranks by hand: 1, 2.5, 2.5, 4 and 2, 1, 4, 3."""
    expected = np.corrcoef([1, 2.5, 2.5, 4], [2, 1, 4, 3])[0, 1]
    assert rank_correlation([0.1, 5.0, 5.0, 1e6], [7, -1, 9, 8]) == pytest.approx(expected)


def test_only_the_order_counts() -> None:
    values = np.array([3.0, 1.0, 2.0, 9.0])
    assert rank_correlation(values, np.exp(values)) == 1
    assert rank_correlation(values, -(values**3)) == -1
