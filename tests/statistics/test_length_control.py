"""Length control: claim 24 (Dubois et al. 2024), recovery of planted effects, coverage, degenerate data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from alignlab.statistics.intervals import Array
from alignlab.statistics.length_control import Weights, controlled_rate, length_controlled


def verbose(
    rng: np.random.Generator, n: int = 805, *, quality: float, liking: float, longer: float = 1.35, spread: float = 0.8
) -> tuple[Array, Array, Array, Array]:
    """(scores, lengths, baseline lengths, win probabilities at equal length). The candidate's answers are longer."""
    baseline = rng.lognormal(7.0, 0.5, n)
    length = longer * baseline * rng.lognormal(0.0, 0.4, n)
    difference = length - baseline
    hard = rng.normal(0, spread, n)
    chance = expit(quality + liking * np.tanh(difference / difference.std(ddof=1)) + hard)
    return (rng.random(n) < chance).astype(float), length, baseline, hard


def test_the_gain_of_length_is_taken_out() -> None:
    """Claim 24: with equal quality, longer answers and a judge that prefers length, the raw rate is about .58 and the
    controlled rate 1/2.
    """
    rng, raw, controlled, held = np.random.default_rng(0), [], [], []
    for _ in range(400):
        scores, length, baseline, hard = verbose(rng, quality=0.0, liking=1.0)
        found = length_controlled(scores, length, baseline, difficulty=hard)
        raw.append(found.raw)
        controlled.append(found.rate.value)
        held.append(found.rate.low <= 0.5 <= found.rate.high)
    assert np.mean(raw) == pytest.approx(0.584, abs=0.02)
    assert np.mean(controlled) == pytest.approx(0.5, abs=0.005)
    assert np.std(controlled) == pytest.approx(0.022, abs=0.006)
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("liking", [0.0, 2.0])
def test_planted_effects_are_recovered(liking: float) -> None:
    rng = np.random.default_rng(1)
    scores, length, baseline, hard = verbose(rng, 20_000, quality=0.3, liking=liking)
    found = length_controlled(scores, length, baseline, difficulty=hard)
    assert found.weights.quality == pytest.approx(0.3, abs=0.06)
    assert found.weights.length == pytest.approx(liking, abs=0.1)
    assert found.weights.difficulty == pytest.approx(1.0, abs=0.08)
    assert found.rate.value == pytest.approx(expit(0.3 + hard).mean(), abs=0.012)


def test_intervals_cover() -> None:
    """The true value is the mean over all possible prompts. Most of the uncertainty is in the choice of prompts."""
    rng, held = np.random.default_rng(2), []
    truth = float(expit(0.4 + np.random.default_rng(3).normal(0, 3.0, 2_000_000)).mean())
    for _ in range(1500):
        scores, length, baseline, hard = verbose(rng, 250, quality=0.4, liking=0.7, spread=3.0)
        rate = length_controlled(scores, length, baseline, difficulty=hard).rate
        held.append(rate.low <= truth <= rate.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_rows_of_one_prompt_are_not_independent() -> None:
    rng = np.random.default_rng(4)
    scores, length, baseline, _ = verbose(rng, 200, quality=0.0, liking=0.5)
    once = length_controlled(scores, length, baseline)
    twice = length_controlled(
        *(np.repeat(v, 2) for v in (scores, length, baseline)), prompts=list(np.repeat(range(200), 2))
    )
    assert twice.rate.value == pytest.approx(once.rate.value, abs=1e-3)
    assert twice.rate.standard_error == pytest.approx(once.rate.standard_error, rel=0.01)
    assert twice.rate.n == 200


def test_cutting_answers_short_does_not_pay() -> None:
    """Longer answers win only by their length. If they are cut to a third, the raw rate falls and the controlled rate
    hardly changes.
    """
    rng = np.random.default_rng(5)
    scores, length, baseline, _ = verbose(rng, 5000, quality=0.0, liking=1.5, longer=1.35)
    cut, short, same, _ = verbose(rng, 5000, quality=0.0, liking=1.5, longer=0.45)
    long, brief = length_controlled(scores, length, baseline), length_controlled(cut, short, same)
    assert long.raw > 0.57
    assert brief.raw < 0.35
    assert abs(long.rate.value - brief.rate.value) < 0.05


def test_equal_lengths_leave_the_raw_rate() -> None:
    scores = np.array([1.0, 0.0, 1.0, 1.0, 0.5])
    found = length_controlled(scores, np.full(5, 70), np.full(5, 70), ridge=1e-9)
    assert found.rate.value == pytest.approx(0.7, abs=1e-6)
    assert found.weights.length == 0.0
    assert found.rate.standard_error == pytest.approx(scores.std(ddof=1) / np.sqrt(5), rel=1e-6)


def test_a_candidate_that_wins_everything_has_a_finite_rate() -> None:
    rng = np.random.default_rng(6)
    found = length_controlled(np.ones(50), rng.integers(10, 500, 50), rng.integers(10, 500, 50))
    assert 0.99 < found.rate.value < 1
    assert np.isfinite(found.rate.standard_error)


def test_invalid_rows_are_left_out_and_one_prompt_is_not_enough() -> None:
    nan = float("nan")
    found = length_controlled([1, 0, nan, 1], [10, 20, 30, 15], [12, 18, 3, 15], prompts=list("abcd"))
    assert found.rate.n == 3
    with pytest.raises(ValueError, match="at least two prompts"):
        length_controlled([1, nan], [10, 20], [12, 18])
    with pytest.raises(ValueError, match="at least two prompts"):
        length_controlled([1, 0], [10, 20], [12, 18], prompts=["a", "a"])


def test_numbers_that_belong_to_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"difficulty \(4,\) must have a number for each score \(3,\)"):
        length_controlled([1, 0, 1], [1, 2, 3], [3, 2, 1], difficulty=[0.1, 0.2, 0.3, 0.4])
    with pytest.raises(ValueError, match="difficulty has numbers that are not finite"):
        length_controlled([1, 0, 1], [1, 2, 3], [3, 2, 1], difficulty=[0.1, float("nan"), 0.3])


def test_a_rate_from_given_weights() -> None:
    rate, error = controlled_rate(Weights(quality=0.5, length=-3.0, difficulty=2.0), [0.0, -0.25, 1.0])
    chances = [1 / (1 + np.exp(-v)) for v in (0.5, 0.0, 2.5)]
    assert (rate, error) == pytest.approx((np.mean(chances), np.std(chances, ddof=1) / np.sqrt(3)))


@pytest.mark.parametrize("graded", [False, True])
def test_weights_are_those_of_a_logistic_regression_of_statsmodels(graded: bool) -> None:
    """So is the win-rate that it predicts with the length term at 0."""
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    rng = np.random.default_rng(7)
    scores, length, baseline, hard = verbose(rng, 400, quality=0.2, liking=0.8)
    scores = np.where(rng.random(400) < 0.3, rng.random(400), scores) if graded else scores
    difference = length - baseline
    design = np.stack([np.ones(400), np.tanh(difference / difference.std(ddof=1)), hard], axis=1)
    theirs = GLM(scores, design, family=Binomial()).fit(tol=1e-12)
    found = length_controlled(scores, length, baseline, difficulty=hard, ridge=1e-9)
    weights = (found.weights.quality, found.weights.length, found.weights.difficulty)
    assert weights == pytest.approx(tuple(theirs.params), abs=1e-7)
    equal = design * [1, 0, 1]
    assert found.rate.value == pytest.approx(theirs.predict(equal).mean(), abs=1e-8)
