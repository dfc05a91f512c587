"""The exact frontier against closed forms for pi_ref = (.5, .3, .2), r = (1, 0, -1)."""

from __future__ import annotations

import numpy as np
import pytest

from alignlab.lab.frontier import Frontier, expected, kl, log_normalise, tilt

REFERENCE = np.log(np.array([[0.5, 0.3, 0.2]]))
REWARD = np.array([[1.0, 0.0, -1.0]])
FRONTIER = Frontier(REFERENCE, REWARD)


def reward_at(frontier: Frontier, distance: float) -> float:
    """The largest expected reward of any policy at this KL."""
    return frontier.point(frontier.strength_at(distance))[1]


# pi ~ (.5 e^{1/b}, .3, .2 e^{-1/b}), normalised by hand
@pytest.mark.parametrize(
    ("strength", "policy", "reward", "distance"),
    [
        (0.5, (0.91867231, 0.07459727, 0.00673043), 0.91194188, 0.43220514),
        (1.0, (0.78439876, 0.17313851, 0.04246273), 0.74193603, 0.19224545),
    ],
)
def test_optimum(strength: float, policy: tuple[float, ...], reward: float, distance: float) -> None:
    best = tilt(REFERENCE, REWARD, strength)
    np.testing.assert_allclose(np.exp(best)[0], policy, atol=1e-8)
    assert expected(best, REWARD) == pytest.approx(reward, abs=1e-8)
    assert kl(best, REFERENCE) == pytest.approx(distance, abs=1e-8)


def test_gap_identity() -> None:
    """J* - J(pi) = beta KL(pi || pi*), 0.7309594801 for the uniform policy at beta 0.5."""
    uniform = log_normalise(np.zeros((1, 3)))
    best = tilt(REFERENCE, REWARD, 0.5)
    gain = [expected(p, REWARD) - 0.5 * kl(p, REFERENCE) for p in (best, uniform)]
    assert gain[0] - gain[1] == pytest.approx(0.7309594801, abs=1e-9)
    assert 0.5 * kl(uniform, best) == pytest.approx(0.7309594801, abs=1e-9)


def test_slope_is_the_strength() -> None:
    (k1, r1), (k2, r2) = FRONTIER.point(0.5 + 1e-5), FRONTIER.point(0.5 - 1e-5)
    assert (r2 - r1) / (k2 - k1) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize(("target", "strength"), [(0.0, np.exp(12)), (1e3, np.exp(-12)), (float("inf"), np.exp(-12))])
def test_what_is_out_of_reach_ends_at_the_bounds(target: float, strength: float) -> None:
    assert FRONTIER.strength_at(target) == pytest.approx(strength, rel=1e-6)
    same = Frontier(FRONTIER.reference, np.zeros_like(FRONTIER.reward))
    assert same.point(0.3) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert np.isfinite(same.strength_at(target)), "a reward that tells nothing apart"


def test_the_strength_inverts_the_curve() -> None:
    for strength in (0.05, 0.3, 2.0):
        distance, reward = FRONTIER.point(strength)
        assert FRONTIER.strength_at(distance) == pytest.approx(strength, rel=1e-6)
        assert reward_at(FRONTIER, distance) == pytest.approx(reward, abs=1e-9)


def test_no_policy_is_above_the_frontier_of_the_averages() -> None:
    """With 4 prompts, tilts of different strengths lie below the frontier, and one strength for all lies on it."""
    rng = np.random.default_rng(1)
    reference = log_normalise(rng.normal(size=(4, 6)))
    reward = rng.normal(size=(4, 6))
    frontier = Frontier(reference, reward)
    for _ in range(50):
        strengths = np.exp(rng.normal(size=(4, 1)))
        policy = log_normalise(reference + reward / strengths)
        assert expected(policy, reward) <= reward_at(frontier, kl(policy, reference)) + 1e-9
    same = tilt(reference, reward, 0.7)
    assert expected(same, reward) == pytest.approx(reward_at(frontier, kl(same, reference)), abs=1e-9)


def test_curve_starts_at_the_reference_and_rises() -> None:
    curve = FRONTIER.curve(0.6)
    assert curve[0][:2] == (0.0, pytest.approx(0.3))
    rewards = [point[1] for point in curve]
    assert rewards == sorted(rewards)
    assert curve[-1][0] == pytest.approx(0.6, abs=1e-6)
