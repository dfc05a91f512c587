"""RLOO against numbers worked out by hand, and against the exact gradient."""

from __future__ import annotations

import itertools

import pytest
import torch

from alignlab.objectives.advantages import leave_one_out
from alignlab.objectives.rloo import RLOO, rloo_loss
from tests.objectives.build import refused
from tests.objectives.rollouts import batch, scored


def test_advantages_are_rewards_less_those_of_the_others() -> None:
    found, returns = RLOO(beta=0.0).advantages(scored([[1.0, 0.0, 0.0, 3.0]]), 0.0)
    assert found.flatten().tolist() == pytest.approx([0, -4 / 3, -4 / 3, 8 / 3], abs=1e-12)
    assert returns is None


def test_the_kl_is_part_of_the_reward() -> None:
    """Scores 1 and 0, log-ratios 2 and -1, beta 0.5: rewards 0 and 0.5."""
    found, _ = RLOO(beta=0.5, samples=2).advantages(scored([[1.0, 0.0]], [2.0, -1.0]), 0.5)
    assert found.flatten().tolist() == pytest.approx([-0.5, 0.5], abs=1e-12)


def test_the_answer_is_one_action() -> None:
    """Tokens moved by 0.1 each: an answer of three by 0.3, past the clip for A > 0, with a slope for A < 0."""
    made = batch([[0.1, 0.1, 0.1], [0.1, 0.1, 0.1]], [[1.0] * 3, [-1.0] * 3])
    loss = RLOO(beta=0.1)(made)
    (slope,) = torch.autograd.grad(loss.sum(), made.answers.tokens)
    ratio = 1.3498588076
    assert loss.tolist() == pytest.approx([-1.2, ratio], abs=1e-9)
    assert slope.tolist() == [pytest.approx([0.0] * 3), pytest.approx([ratio] * 3)]


def test_unbiased_against_the_exact_gradient() -> None:
    """Over every pair of answers that a policy of three can give: the mean gradient is that of E[R]."""
    rewards = torch.tensor([1.0, 0.2, -0.7], dtype=torch.float64)
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad((logits.softmax(0) * rewards).sum(), logits)
    probability = logits.detach().softmax(0)
    total = torch.zeros(3, dtype=torch.float64)
    for pair in itertools.product(range(3), repeat=2):
        chosen = torch.tensor(pair)
        advantages = leave_one_out(rewards[chosen][None])[0]
        now = logits.log_softmax(0)[chosen]
        (slope,) = torch.autograd.grad(rloo_loss(now - now.detach(), advantages, clip=0.2).mean(), logits)
        total += probability[chosen].prod() * -slope
    torch.testing.assert_close(total, exact, atol=1e-12, rtol=0)


def test_equal_rewards_pull_nowhere() -> None:
    found, _ = RLOO(beta=0.0).advantages(scored([[2.0] * 4]), 0.0)
    assert found.flatten().tolist() == [0.0] * 4


def test_one_answer_has_no_others() -> None:
    assert refused(RLOO, beta=-1.0, samples=1, clip=-0.1) == ["samples", "clip", "beta"]
