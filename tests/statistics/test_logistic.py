"""Logistic regression: solutions that are known, and the gradient at the minimum."""

from __future__ import annotations

import numpy as np
import pytest

from alignlab.statistics.logistic import logistic_regression

Row = tuple[np.ndarray, np.ndarray]


def row(*values: float) -> Row:
    found = np.nonzero(values)[0]
    return found, np.array(values)[found]


def test_one_feature_without_penalty_gives_the_log_odds_of_both_groups() -> None:
    """3 of 4 rows with the feature are good, and 1 of 4 without it."""
    rows = [row(1.0)] * 4 + [row(0.0)] * 4
    labels = np.array([True, True, True, False, True, False, False, False])
    weights, intercept = logistic_regression(rows, labels, width=1, penalty=1e-12)
    assert intercept == pytest.approx(np.log(1 / 3), abs=1e-5)
    assert intercept + weights[0] == pytest.approx(np.log(3), abs=1e-5)


def test_the_gradient_is_zero_with_a_penalty() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(50, 3)) * (rng.random((50, 3)) < 0.5)
    labels = rng.random(50) < 0.5
    weights, intercept = logistic_regression([row(*r) for r in table], labels, width=3, penalty=0.1)
    share = 1 / (1 + np.exp(-(table @ weights + intercept)))
    assert table.T @ (share - labels) / 50 + 0.1 * weights == pytest.approx(np.zeros(3), abs=1e-6)
    assert (share - labels).mean() == pytest.approx(0.0, abs=1e-6), "the intercept has no penalty"


def test_equal_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="all labels are equal"):
        logistic_regression([row(1.0), row(2.0)], np.array([True, True]), width=1, penalty=0.1)
