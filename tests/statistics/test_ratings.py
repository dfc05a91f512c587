"""Bradley-Terry: known ratings, no dependence on order, unlike Elo (claim 25), bootstrap coverage, unrelated groups."""

from __future__ import annotations

import numpy as np
import pytest

from alignlab.statistics.intervals import Array
from alignlab.statistics.ratings import SCALE, bradley_terry

RUNS = ["a", "b", "c", "d", "e", "f"]
TRUE = np.array([150.0, 90.0, 30.0, -30.0, -90.0, -150.0])


def battles(rng: np.random.Generator, n: int) -> tuple[list[str], list[str], list[float]]:
    left = rng.integers(0, 6, n)
    right = (left + rng.integers(1, 6, n)) % 6
    won = rng.random(n) < 1 / (1 + 10 ** ((TRUE[right] - TRUE[left]) / 400))
    return [RUNS[i] for i in left], [RUNS[i] for i in right], won.astype(float).tolist()


def elo(a: list[str], b: list[str], scores: list[float], k: float = 4.0) -> dict[str, float]:
    ratings = dict.fromkeys(RUNS, 1000.0)
    for i, j, score in zip(a, b, scores, strict=True):
        gain = k * (score - 1 / (1 + 10 ** ((ratings[j] - ratings[i]) / 400)))
        ratings[i] += gain
        ratings[j] -= gain
    return ratings


def test_two_runs_by_hand() -> None:
    """3 of 4 won gives odds of 3, which is 400 log10 3 = 190.85 points. A tie is half a win."""
    found = bradley_terry(["x"] * 4, ["y"] * 4, [1, 1, 1, 0], draws=10, ridge=1e-9)
    assert found.table["x"].value - found.table["y"].value == pytest.approx(400 * np.log10(3))
    assert found.chance("x", "y") == pytest.approx(0.75)
    assert found.table["x"].value + found.table["y"].value == pytest.approx(2000)
    tied = bradley_terry(["x", "y", "x"], ["y", "x", "y"], [1, 0.5, 0.5], draws=10, ridge=1e-9)
    assert tied.chance("x", "y") == pytest.approx(2 / 3)
    assert list(tied.table) == ["x", "y"]


def test_strengths_are_recovered() -> None:
    found = bradley_terry(*battles(np.random.default_rng(0), 40_000), draws=20)
    np.testing.assert_allclose([found.table[r].value - 1000 for r in RUNS], TRUE, atol=12)


def test_order_of_battles_matters_to_elo_only() -> None:
    a, b, scores = battles(np.random.default_rng(1), 2000)
    rng, ratings, running = np.random.default_rng(2), [], []
    for _ in range(30):
        order = rng.permutation(2000)
        shuffled = [[values[i] for i in order] for values in (a, b, scores)]
        ratings.append(bradley_terry(*shuffled, draws=2).table["a"].value)
        running.append(elo(*shuffled)["a"])
    assert np.std(ratings) < 1e-6
    assert 8 < np.std(running) < 25


def test_bootstrap_intervals_are_honest() -> None:
    rng, held, widths = np.random.default_rng(3), [], []
    for trial in range(120):
        found = bradley_terry(*battles(rng, 2000), draws=200, seed=trial)
        for run, truth in zip(RUNS, TRUE, strict=True):
            held.append(found.table[run].low <= 1000 + truth <= found.table[run].high)
            widths.append((found.table[run].high - found.table[run].low) / 2)
    assert np.mean(held) == pytest.approx(0.94, abs=0.03)
    assert np.mean(widths) == pytest.approx(22, abs=4)


def test_prompts_are_what_is_resampled() -> None:
    a, b, scores = battles(np.random.default_rng(4), 400)
    alone = bradley_terry(a, b, scores, draws=400).table["a"]
    fivefold = bradley_terry(a * 5, b * 5, scores * 5, list(range(400)) * 5, draws=400).table["a"]
    assert fivefold.value == pytest.approx(alone.value, abs=1)
    assert fivefold.standard_error == pytest.approx(alone.standard_error, rel=0.15)
    assert fivefold.n == 400


def test_an_anchor_stands_still() -> None:
    found = bradley_terry(*battles(np.random.default_rng(5), 500), anchor="c", anchor_rating=1200, draws=50)
    assert (found.table["c"].low, found.table["c"].value, found.table["c"].high) == (1200, 1200, 1200)
    with pytest.raises(ValueError, match="the anchor z is not one of the compared runs"):
        bradley_terry(["x"], ["y"], [1], anchor="z")


def test_a_run_that_wins_everything_has_a_finite_rating() -> None:
    found = bradley_terry(["x"] * 20, ["y"] * 20, [1] * 20, draws=20)
    assert 500 < found.table["x"].value - found.table["y"].value < 20 * SCALE


def test_runs_that_never_met_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"never compared with each other: w, x \| y, z"):
        bradley_terry(["w", "y", "x"], ["x", "z", "y"], [1, 0, float("nan")])


def test_ratings_are_those_of_choix() -> None:
    """Every comparison counted twice, so that a tie is a win for each; log-odds within 1e-6."""
    import choix

    rng = np.random.default_rng(6)
    a, b, scores = battles(rng, 300)
    scores = [0.5 if rng.random() < 0.2 else score for score in scores]
    pairs = []
    for i, j, score in zip(a, b, scores, strict=True):
        left, right = RUNS.index(i), RUNS.index(j)
        pairs += {1.0: [(left, right)] * 2, 0.5: [(left, right), (right, left)], 0.0: [(right, left)] * 2}[score]

    def log_odds(ridge: float) -> Array:
        found = bradley_terry(a, b, scores, ridge=ridge, draws=2)
        return np.array([found.table[run].value - 1000 for run in RUNS]) / SCALE

    plain = log_odds(ridge=1e-12)
    np.testing.assert_allclose(plain, choix.ilsr_pairwise(6, pairs, max_iter=1000), atol=1e-6)
    np.testing.assert_allclose(plain, choix.opt_pairwise(6, pairs, tol=1e-10), atol=1e-6)
    # Their penalty is alpha |x|^2, ours ridge / 2 |x|^2 of half as many comparisons: alpha = ridge.
    drawn_in = log_odds(ridge=5.0)
    assert np.ptp(drawn_in) < 0.95 * np.ptp(plain)
    np.testing.assert_allclose(drawn_in, choix.opt_pairwise(6, pairs, alpha=5.0, tol=1e-10), atol=1e-6)
