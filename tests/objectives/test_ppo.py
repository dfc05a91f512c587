"""PPO against numbers worked out by hand: its batch of advantages, its loss, the weight of the KL."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from alignlab.objectives.ppo import PPO, ppo_loss
from alignlab.types import Rollouts
from tests.objectives.build import logps, refused
from tests.objectives.rollouts import batch, one_answer


def test_advantages_of_one_answer() -> None:
    """The numbers of test_advantages, computed from a batch's scores, log-probabilities and values, then whitened."""
    advantages, returns = PPO(kl_coef=0.05).advantages(one_answer(), 0.05)
    assert returns is not None
    assert advantages[0].tolist() == pytest.approx([1.22833311, 0.67967206, -0.63074885, -1.27725632], abs=1e-6)
    assert returns[0].tolist() == pytest.approx([1.37595625, 1.448375, 1.4825, 1.55], abs=1e-6)


def test_the_weight_that_is_given_counts_and_not_the_first() -> None:
    heavier, _ = PPO(kl_coef=0.05, lam=1.0).advantages(one_answer(), 0.5)
    _, returns = PPO(kl_coef=0.05, lam=1.0).advantages(one_answer(), 0.5)
    assert returns is not None
    assert returns[0, 0].item() == pytest.approx(1.5 - 0.5 * (-1.1), abs=1e-6)  # Σ log-ratio is -1.1
    assert heavier.sum().item() == pytest.approx(0.0, abs=1e-5)


def test_rewards_are_divided_by_their_deviation_where_that_is_asked() -> None:
    plain, white = (
        PPO(kl_coef=0.05, lam=1.0, whiten_rewards=w).advantages(one_answer(), 0.05)[1] for w in (False, True)
    )
    rewards = torch.tensor([-0.01, 0.025, -0.01, 1.55], dtype=torch.float64)
    assert plain is not None
    assert white is not None
    scaled = (rewards - rewards.mean()) / rewards.std(unbiased=False) + rewards.mean()
    assert white[0, 0].item() == pytest.approx(scaled.sum().item(), abs=1e-5)
    assert plain[0, 0].item() == pytest.approx(rewards.sum().item(), abs=1e-6)


def test_loss_is_a_mean_over_the_tokens_of_the_batch() -> None:
    """Two answers of 1 and 3 tokens at ratio 1 with A = 1: every token has the loss -1, in both answers."""
    made = batch([[0.0], [0.0, 0.0, 0.0]], [[1.0], [1.0, 1.0, 1.0]])
    loss = PPO(kl_coef=0.1, value_weight=0.0)(made)
    assert loss.tolist() == pytest.approx([-0.5, -1.5], abs=1e-12)
    assert loss.mean().item() == pytest.approx(-1.0, abs=1e-12)


def test_ratio_and_clip_of_single_tokens() -> None:
    """Ratios 1.3 and 0.7, advantages +1 and -1: -1.2 and +0.8 are flat, 1.3 and 0.7 have a slope."""
    made = batch([[0.2623642645, 0.2623642645, -0.3566749439, -0.3566749439]], [[1.0, -1.0, 1.0, -1.0]])
    loss = PPO(kl_coef=0.1, value_weight=0.0)(made)
    (slope,) = torch.autograd.grad(loss.sum(), made.answers.tokens)
    assert loss.item() == pytest.approx((-1.2 + 1.3 - 0.7 + 0.8) / 4, abs=1e-9)
    assert slope[0].tolist() == pytest.approx([0.0, 1.3 / 4, -0.7 / 4, 0.0], abs=1e-9)


def test_critic_and_entropy_and_demonstrations_are_added_with_their_weights() -> None:
    made = batch([[0.0, 0.0]], [[0.0, 0.0]], values=[[1.0, 1.0]], old_values=[[0.1, 0.9]], returns=[[2.0, 2.0]])
    made = dataclasses.replace(
        made, entropy=torch.tensor([[0.5, 1.5]], dtype=torch.float64), demonstration=logps([[-1.0, -2.0, -3.0]])
    )
    loss = PPO(kl_coef=0.1, value_weight=0.1, entropy_bonus=0.01, ptx=2.0)(made)
    critic = (0.5 * 1.7**2 + 0.5) / 2
    assert loss.item() == pytest.approx(0.1 * critic - 0.01 * 1.0 + 2.0 * 2.0, abs=1e-9)
    free = PPO(kl_coef=0.1, value_weight=0.1, value_clip=0.0, ptx=0.0)
    without = dataclasses.replace(made, entropy=None, demonstration=None)
    assert free(without).item() == pytest.approx(0.1 * 0.5, abs=1e-9)


def test_metrics_at_ratio_1() -> None:
    """N+ detail 12: the ratio is 1, approxkl 0 and clipfrac 0."""
    made = batch([[0.0], [0.0, 0.0, 0.0]], [[1.0], [1.0, 0.0, 1.0]])
    found = {name: float(value) for name, value in PPO(kl_coef=0.1).metrics(made).items()}
    assert (found["val/ratio"], found["policy/approxkl_avg"], found["policy/clipfrac_avg"]) == (1.0, 0.0, 0.0)
    assert found["loss/policy_avg"] == pytest.approx(-0.75)


def test_metrics_of_moved_tokens() -> None:
    """Log-ratios 0.3, 0.3, -0.1 and -0.3: of those past 20 % the clip holds the one that rose for A > 0 and the one
    that fell for A < 0.
    """
    found = PPO(kl_coef=0.1).metrics(batch([[0.3, 0.3, -0.1, -0.3]], [[1.0, -1.0, 1.0, -1.0]]))
    assert float(found["policy/approxkl_avg"]) == pytest.approx(0.5 * (0.09 * 3 + 0.01) / 4)
    assert float(found["policy/clipfrac_avg"]) == 0.5


def test_metrics_of_the_critic_and_of_ratios() -> None:
    """Values 1.0, 1.0, 1.0 and 0.1 that were 0.7, 0.7, 0.9 and 0.1, towards 2, 0, 2 and 0: past its clip are the first
    two, and only on the way to its return is the loss the larger one of the clipped value 0.9. Ratios 1.5, 0.5, 1, 1.
    """
    made = batch(
        [[math.log(1.5), math.log(0.5), 0.0, 0.0]],
        [[0.0] * 4],
        values=[[1.0, 1.0, 1.0, 0.1]],
        old_values=[[0.7, 0.7, 0.9, 0.1]],
        returns=[[2.0, 0.0, 2.0, 0.0]],
    )
    found = {name: float(value) for name, value in PPO(kl_coef=0.1).metrics(made).items()}
    assert found["val/clipfrac_avg"] == 0.25
    assert found["loss/value_avg"] == pytest.approx(0.5 * (1.1**2 + 1.0 + 1.0 + 0.01) / 4)
    assert (found["val/ratio"], found["val/token_ratio_var"]) == pytest.approx((1.0, 0.5 / 3))
    assert float(PPO(kl_coef=0.1, value_clip=0.0).metrics(made)["val/clipfrac_avg"]) == 0.0


def test_explained_variance() -> None:
    made = batch([[0.0] * 4], [[0.0] * 4], values=[[1.0, 2.0, 3.0, 5.0]], returns=[[1.0, 2.0, 3.0, 4.0]])
    found = float(PPO(kl_coef=0.1).metrics(made)["val/explained_variance"])
    assert found == pytest.approx(1 - 0.25 / (5 / 3))


@pytest.mark.parametrize(
    ("kl", "factor"), [(12.0, 1.02), (6.6, 1.01), (6.0, 1.0), (5.4, 0.99), (0.0, 0.98), (-3.0, 0.98)]
)
def test_the_kl_is_held_by_moving_its_weight(kl: float, factor: float) -> None:
    """With target 6, the errors are +100 %, +10 %, 0 and -10 %, clipped to ±20 %; 100 answers, horizon 1,000."""
    held = PPO(kl_coef=0.2, target_kl=6.0, kl_horizon=1000)
    assert held.next_coefficient(0.3, kl, 100) == pytest.approx(0.3 * factor)
    assert PPO(kl_coef=0.2).next_coefficient(0.3, kl, 100) == 0.3


def test_needs_follow_from_what_is_switched_on() -> None:
    plain = PPO(kl_coef=0.1).requires
    assert (plain.online, plain.critic, plain.entropy, plain.demonstrations) == (True, "head", False, False)
    more = PPO(kl_coef=0.1, critic="network", entropy_bonus=0.1, ptx=1.0).requires
    assert (more.critic, more.entropy, more.demonstrations) == ("network", True, True)


def test_a_batch_without_a_critic_is_refused() -> None:
    made = dataclasses.replace(batch([[0.0]], [[1.0]]), values=None)
    with pytest.raises(ValueError, match="needs a critic's values"):
        PPO(kl_coef=0.1)(made)
    with pytest.raises(ValueError, match="the rollouts have none"):
        PPO(kl_coef=0.1).advantages(dataclasses.replace(one_answer(), reference=None), 0.1)


def test_the_function_is_the_surrogate() -> None:
    found = ppo_loss(torch.zeros(1, 2), torch.tensor([[1.0, -2.0]]), clip=0.2)
    assert found.tolist() == [[-1.0, 2.0]]


def test_values_out_of_range_are_refused() -> None:
    assert refused(PPO, kl_coef=0.0, lam=1.5, gamma=-0.1, critic="none", samples=0, clip=2.0) == [
        "samples", "clip", "kl_coef", "gamma", "lam", "critic",
    ]  # fmt: skip


def test_rollouts_know_their_log_ratio_on_answers_only() -> None:
    made = Rollouts(
        torch.zeros(1, 1),
        torch.tensor([[True, False]]),
        torch.tensor([[-1.0, float("nan")]]),
        torch.tensor([True]),
        torch.tensor([[-3.0, 0.0]]),
    )
    assert made.log_ratio.tolist() == [[2.0, 0.0]]


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="of one shape"):
        ppo_loss(torch.zeros(3, 2), torch.zeros(3, 1), clip=0.2)
