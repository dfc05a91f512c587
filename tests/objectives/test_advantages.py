"""Rewards, GAE, whitening, baselines and clipping against published numbers and numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from alignlab.objectives.advantages import (
    clipped_surrogate,
    clipped_value_loss,
    gae,
    group_normalised,
    k3,
    leave_one_out,
    over_tokens,
    ratio_of,
    token_rewards,
    whitened,
)

# One answer of four tokens: log-probabilities, those of the reference, and values. The KL's weight is 0.05, the score
# 1.5.
LOGPS, REFERENCE = [-1.0, -2.0, -0.5, -3.0], [-1.2, -1.5, -0.7, -2.0]
VALUES, REWARDS = [0.1, 0.2, 0.3, 0.4], [-0.01, 0.025, -0.01, 1.55]
ADVANTAGES, RETURNS = [1.27595625, 1.248375, 1.1825, 1.15], [1.37595625, 1.448375, 1.4825, 1.55]
WHITENED = [1.22833311, 0.67967206, -0.63074885, -1.27725632]


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_kl_of_every_token_is_taken_off_and_the_score_stands_on_the_last() -> None:
    """N+ details 6 and 11. A second answer has two tokens and NaN as padding; its score is on its own last token."""
    ratio = rows([p - q for p, q in zip(LOGPS, REFERENCE, strict=True)], [0.1, -0.3, math.nan, math.nan])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    found = token_rewards(ratio, mask, torch.tensor([1.5, -2.0]), 0.05)
    torch.testing.assert_close(found, rows(REWARDS, [-0.005, 0.015 - 2.0, 0.0, 0.0]), atol=1e-12, rtol=0)


def test_gae_by_hand() -> None:
    """lambda 0.95: δ = 0.09, 0.125, 0.09, 1.15; A_4 = 1.15, A_3 = 0.09 + 0.95 x 1.15, and so on."""
    mask = torch.ones(1, 4, dtype=torch.bool)
    advantages, returns = gae(rows(REWARDS), rows(VALUES), mask, gamma=1.0, lam=0.95)
    torch.testing.assert_close(advantages, rows(ADVANTAGES), atol=1e-6, rtol=0)
    torch.testing.assert_close(returns, rows(RETURNS), atol=1e-6, rtol=0)


def test_nothing_is_expected_after_an_answer_has_ended() -> None:
    """N+ detail 7: values and rewards in the padding have no effect on the tokens of the answer."""
    mask = torch.tensor([[True, True, False, False]])
    expected = gae(rows([0.5, 1.0]), rows([0.2, 0.4]), mask[:, :2], gamma=0.9, lam=0.8)
    for filler in (0.0, 7.0, math.nan):
        found = gae(rows([0.5, 1.0, filler, filler]), rows([0.2, 0.4, filler, filler]), mask, gamma=0.9, lam=0.8)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, torch.cat([other, torch.zeros(1, 2, dtype=other.dtype)], dim=1))


def test_with_lambda_1_an_advantage_is_what_came_less_what_was_expected() -> None:
    mask = torch.ones(1, 4, dtype=torch.bool)
    advantages, _ = gae(rows(REWARDS), rows(VALUES), mask, gamma=1.0, lam=1.0)
    came = [sum(REWARDS[t:]) for t in range(4)]
    assert advantages[0].tolist() == pytest.approx([c - v for c, v in zip(came, VALUES, strict=True)], abs=1e-12)


def test_whitening() -> None:
    mask = torch.ones(1, 4, dtype=torch.bool)
    torch.testing.assert_close(whitened(rows(ADVANTAGES), mask), rows(WHITENED), atol=1e-6, rtol=0)
    kept = whitened(rows(ADVANTAGES), mask, shift_mean=False)
    mean = sum(ADVANTAGES) / 4
    torch.testing.assert_close(kept, rows([w + mean for w in WHITENED]), atol=1e-6, rtol=0)


def test_whitening_looks_at_tokens_of_answers_only() -> None:
    """N+ detail 8."""
    mask = torch.tensor([[True] * 4 + [False] * 2])
    padded = rows([*ADVANTAGES, 100.0, math.nan])
    torch.testing.assert_close(whitened(padded, mask), rows([*WHITENED, 0.0, 0.0]), atol=1e-6, rtol=0)


def test_leave_one_out() -> None:
    assert leave_one_out(rows([1.0, 0.0, 0.0, 3.0]))[0].tolist() == pytest.approx([0, -4 / 3, -4 / 3, 8 / 3], abs=1e-12)


def test_group_normalised() -> None:
    """The deviation divides by K - 1. Equal rewards give 0, not NaN."""
    found = group_normalised(rows([1.0, 0.0, 0.0, 3.0], [2.0] * 4))
    expected = [[0.0, -0.70705678, -0.70705678, 1.41411357], [0.0] * 4]
    torch.testing.assert_close(found, rows(*expected), atol=1e-6, rtol=0)
    plain = group_normalised(rows([1.0, 0.0, 0.0, 3.0]), by_deviation=False)
    assert plain[0].tolist() == [0.0, -1.0, -1.0, 2.0]


def test_an_answers_advantage_is_that_of_each_of_its_tokens() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert over_tokens(rows([2.0, -1.0]), mask).tolist() == [[2.0, 2.0, 0.0], [-1.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"), [(1.3, 1, -1.2), (1.3, -1, 1.3), (0.7, 1, -0.7), (0.7, -1, 0.8)]
)
def test_clipped_surrogate(ratio: float, advantage: float, loss: float) -> None:
    found = clipped_surrogate(rows([ratio]), rows([advantage]), low=0.2, high=0.2)
    assert found.item() == pytest.approx(loss, abs=1e-12)


def test_the_two_sides_of_the_clip() -> None:
    found = clipped_surrogate(rows([1.3, 0.7]), rows([1.0, -1.0]), low=0.1, high=0.28)
    assert found[0].tolist() == pytest.approx([-1.28, 0.9], abs=1e-12)


def test_at_ratio_1_the_gradient_is_the_policy_gradient() -> None:
    """d/d log π of the surrogate is -A."""
    log_ratio, advantages = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True), rows([0.5, -2.0, 3.0])
    clipped_surrogate(ratio_of(log_ratio), advantages, low=0.2, high=0.2).sum().backward()
    assert log_ratio.grad is not None
    assert log_ratio.grad[0].tolist() == pytest.approx([-0.5, 2.0, -3.0], abs=1e-12)


def test_clipped_value_loss() -> None:
    """V = 1 and R = 2. With V_old = 0.9, V is within the clip: ½. With V_old = 0.1 the clipped value 0.3 is worse:
    ½ 1.7².
    """
    found = clipped_value_loss(rows([1.0, 1.0]), rows([0.9, 0.1]), rows([2.0, 2.0]), clip=0.2)
    assert found[0].tolist() == pytest.approx([0.5, 0.5 * 1.7**2], abs=1e-12)


def test_k3_has_the_value_of_one_kl_and_the_gradient_of_the_other() -> None:
    """Over a distribution of three: its mean is KL(π || π_ref); the mean slope with respect to the policy's logits, its
    samples fixed, is that of KL(π_ref || π), which is π - π_ref.
    """
    policy, reference = rows([0.5, 0.3, 0.2]).log(), rows([0.2, 0.3, 0.5]).log()
    logits = policy.clone().requires_grad_()
    values = k3(logits.log_softmax(-1), reference)
    kl = float((policy.exp() * (policy - reference)).sum())
    assert float((policy.exp() * values.detach()).sum()) == pytest.approx(kl, abs=1e-12)
    (slope,) = torch.autograd.grad((policy.exp() * values).sum(), logits)
    torch.testing.assert_close(slope, policy.exp() - reference.exp())


def test_far_ratios_stay_finite_with_a_slope() -> None:
    far = torch.tensor([21.0, 1e4, -1e4], requires_grad=True)
    ratio = ratio_of(far)
    ratio.sum().backward()
    assert torch.isfinite(ratio).all()
    assert ratio[0].item() == pytest.approx(2 * math.exp(20), rel=1e-5)
    assert far.grad is not None
    assert far.grad[1].item() == pytest.approx(math.exp(20), rel=1e-5)


def test_estimators_of_the_kl_of_the_answer_by_hand() -> None:
    """k1 -0.275 a token, k3 0.2261161513."""
    p, q = rows(LOGPS), rows(REFERENCE)
    assert float((p - q).mean()) == pytest.approx(-0.275, abs=1e-12)
    assert float(k3(p, q).mean()) == pytest.approx(0.2261161513, abs=1e-9)
