"""Best-of-n: equal to the mean over all subsets, unbiased on random samples, ties, the bound on the KL."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from alignlab.statistics.best_of_n import best_of_n, best_of_n_kl


@pytest.mark.parametrize("ties", [False, True])
def test_equal_to_all_subsets(ties: bool) -> None:
    rng = np.random.default_rng(0)
    proxy = rng.integers(0, 3, (4, 7)).astype(float) if ties else rng.normal(size=(4, 7))
    gold = rng.normal(size=(4, 7))
    found = best_of_n(proxy, [1, 3, 7], gold=gold)
    for n in (1, 3, 7):
        means = []
        for x in range(4):
            for subset in itertools.combinations(range(7), n):
                best = [i for i in subset if proxy[x, i] == max(proxy[x, j] for j in subset)]
                means.append((x, np.mean([gold[x, i] for i in best])))
        expected = np.mean([np.mean([m for y, m in means if y == x]) for x in range(4)])
        tolerance = 0.15 if ties else 1e-9  # brute force shares ties within a subset, the estimator within the row
        assert found[n].value == pytest.approx(expected, abs=tolerance)


def test_ties_over_the_whole_row_are_drawn_at_random() -> None:
    """The estimate with ties is the average over all orders of the equal samples."""
    proxy, gold = np.array([0.0, 1.0, 1.0, 1.0, 2.0]), np.array([3.0, 1.0, 5.0, 0.0, -2.0])
    orders = [
        best_of_n([proxy + 1e-6 * np.array([0, *noise, 0])], [2], gold=[gold])[2].value
        for noise in itertools.permutations(range(3))
    ]
    assert best_of_n([proxy], [2], gold=[gold])[2].value == pytest.approx(np.mean(orders))


def test_the_best_of_all_and_of_one() -> None:
    scores = np.random.default_rng(1).normal(size=(50, 16))
    found = best_of_n(scores, [1, 16])
    assert found[1].value == pytest.approx(scores.mean())
    assert found[16].value == pytest.approx(scores.max(axis=1).mean())
    assert found[16].n == 50


def test_unbiased_and_honest() -> None:
    """The mean of the best of 4 uniform numbers is 4/5. Intervals over 40 prompts with 10 samples each contain it."""
    rng = np.random.default_rng(2)
    found = [best_of_n(rng.random((40, 10)), [4])[4] for _ in range(1200)]
    assert np.mean([f.value for f in found]) == pytest.approx(0.8, abs=0.002)
    assert np.mean([f.low <= 0.8 <= f.high for f in found]) == pytest.approx(0.95, abs=0.015)


def test_large_n_is_stable() -> None:
    scores = np.arange(4096.0)[None] / 4096
    assert best_of_n(scores, [1024])[1024].value == pytest.approx(1024 / 1025, abs=1e-3)


def test_what_can_not_be_estimated_is_refused() -> None:
    with pytest.raises(ValueError, match=r"n must lie in \[1, 3\]"):
        best_of_n(np.zeros((2, 3)), [4])
    with pytest.raises(ValueError, match=r"\[prompts, samples\]"):
        best_of_n(np.zeros((2, 3)), [1], gold=np.zeros((2, 4)))


def test_kl_bound() -> None:
    assert best_of_n_kl(1) == 0.0
    assert best_of_n_kl(256) == pytest.approx(4.5491, abs=1e-4)
    with pytest.raises(ValueError, match="at least 1"):
        best_of_n_kl(0)
