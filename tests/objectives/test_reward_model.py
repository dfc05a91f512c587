"""The reward model's loss against closed forms; the numbers are worked out in the comments."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from alignlab.errors import ConfigError
from alignlab.objectives.dpo import dpo_loss
from alignlab.objectives.reward_model import RewardModel, reward_model_loss
from alignlab.types import RankedRewards

# softplus(-1), softplus(-2) and softplus(-3), and the sigmoids of -1, -2 and -3
ONE, TWO, THREE = 0.31326168751822283, 0.1269280110429725, 0.048587351573742059
S1, S2, S3 = 0.26894142136999512, 0.11920292202211756, 0.047425873177566781


def ranked(
    rewards: Sequence[Sequence[float]],
    grades: Sequence[Sequence[float]],
    mask: Sequence[Sequence[bool]] | None = None,
    margin: Sequence[float] | None = None,
) -> RankedRewards:
    values = torch.tensor(rewards, dtype=torch.float64, requires_grad=True)
    return RankedRewards(
        values,
        torch.ones(values.shape, dtype=torch.bool) if mask is None else torch.tensor(mask),
        torch.tensor(grades, dtype=torch.float64),
        None if margin is None else torch.tensor(margin, dtype=torch.float64),
    )


# Rewards 2 and 1: lead 1; less a margin of 0.5, softplus(-0.5) = 0.474076984180 and sigmoid(-0.5) = 0.377540668798.
# Centring 0.1 * (2 + 1)^2 = 0.9, slope 0.1 * 2 * 3 = 0.6 in both.
@pytest.mark.parametrize(
    ("objective", "loss", "slopes"),
    [
        (RewardModel(), ONE, (-S1, S1)),
        (RewardModel(margins=True), 0.47407698418010668, (-0.37754066879814544, 0.37754066879814544)),
        (RewardModel(centring=0.1), ONE + 0.9, (-S1 + 0.6, S1 + 0.6)),
    ],
    ids=["plain", "margin", "centred"],
)
def test_value_and_gradient_of_a_pair(objective: RewardModel, loss: float, slopes: tuple[float, float]) -> None:
    batch = ranked([[2.0, 1.0]], [[1.0, 0.0]], margin=[0.5])
    out = objective(batch)
    (slope,) = torch.autograd.grad(out.sum(), batch.rewards)
    assert out.item() == pytest.approx(loss, abs=1e-14)
    assert slope[0].tolist() == pytest.approx(slopes, abs=1e-14)


def test_four_answers_are_the_mean_of_their_six_pairs() -> None:
    """Rewards 2, 1, 0, -1 in the order of the grades: three leads of 1, two of 2, one of 3.

    The best answer leads by 1, 2 and 3, the second by 1 and 2, and trails by 1; the others are their mirror images.
    """
    batch = ranked([[2.0, 1.0, 0.0, -1.0]], [[3.0, 2.0, 1.0, 0.0]])
    loss = RewardModel()(batch)
    (slope,) = torch.autograd.grad(loss.sum(), batch.rewards)
    assert loss.item() == pytest.approx((3 * ONE + 2 * TWO + THREE) / 6, abs=1e-14)
    assert slope[0].tolist() == pytest.approx([-(S1 + S2 + S3) / 6, -S2 / 6, S2 / 6, (S1 + S2 + S3) / 6], abs=1e-14)


def test_margin_and_centring_of_every_pair() -> None:
    """Rewards 3, 1, 0 and margin 1: leads 2, 3, 1 become 1, 2, 0; sums 4, 3, 1 squared 16, 9, 1, mean 26 / 3."""
    loss = RewardModel(centring=0.3, margins=True)(ranked([[3.0, 1.0, 0.0]], [[2.0, 1.0, 0.0]], margin=[1.0]))
    assert loss.item() == pytest.approx((ONE + TWO + math.log(2.0)) / 3 + 0.3 * 26 / 3, abs=1e-14)


def test_answers_come_in_any_order() -> None:
    inorder = ranked([[2.0, 1.0, 0.0, -1.0]], [[3.0, 2.0, 1.0, 0.0]])
    shuffled = ranked([[0.0, 2.0, -1.0, 1.0]], [[1.0, 3.0, 0.0, 2.0]])
    assert RewardModel()(shuffled).item() == pytest.approx(RewardModel()(inorder).item(), abs=1e-15)


def test_equal_grades_are_not_compared() -> None:
    """With grades 2, 1, 1 the best answer leads by 1 and by 2. The others' difference of 1 does not count."""
    batch = ranked([[2.0, 1.0, 0.0]], [[2.0, 1.0, 1.0]])
    loss = RewardModel()(batch)
    (slope,) = torch.autograd.grad(loss.sum(), batch.rewards)
    assert loss.item() == pytest.approx((ONE + TWO) / 2, abs=1e-14)
    assert slope[0].tolist() == pytest.approx([-(S1 + S2) / 2, S1 / 2, S2 / 2], abs=1e-14)


def test_a_prompt_is_one_element_however_many_answers_it_has() -> None:
    """A pair padded to four answers has the loss of the pair, for any rewards and grades in the padding."""
    batch = ranked(
        [[2.0, 1.0, 0.0, -1.0], [2.0, 1.0, 1e9, -7.0]],
        [[3.0, 2.0, 1.0, 0.0], [1.0, 0.0, 5.0, -5.0]],
        mask=[[True] * 4, [True, True, False, False]],
    )
    loss = RewardModel(centring=0.1)(batch)
    (slope,) = torch.autograd.grad(loss.sum(), batch.rewards)
    assert loss[1].item() == pytest.approx(ONE + 0.9, abs=1e-14)
    assert slope[1].tolist() == pytest.approx([-S1 + 0.6, S1 + 0.6, 0.0, 0.0], abs=1e-14)


def test_bradley_terry_is_dpo_with_rewards_as_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    first_is_better = torch.tensor([[[False, True], [False, False]]]).expand(5, 2, 2)
    assert torch.equal(reward_model_loss(rewards, first_is_better), dpo_loss(rewards[:, 0], rewards[:, 1], beta=1.0))


def test_needs_margins_only_where_they_are_used() -> None:
    assert RewardModel().requires.data == "rankings"
    assert [RewardModel(margins=m).requires.margin for m in (False, True)] == [False, True]
    assert not RewardModel().requires.reference


def test_out_of_range_is_refused() -> None:
    for centring in (-0.01, math.nan):
        with pytest.raises(ConfigError) as caught:
            RewardModel(centring=centring)
        assert [problem.key for problem in caught.value.problems] == ["centring"]


def test_shapes_are_never_broadcast() -> None:
    with pytest.raises(ValueError, match="one shape"):
        reward_model_loss(torch.zeros(3, 2), torch.ones(1, 2, 2, dtype=torch.bool))
