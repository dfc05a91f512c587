"""REINFORCE against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from alignlab.objectives.reinforce import Reinforce, reinforce_loss
from tests.objectives.build import refused
from tests.objectives.rollouts import batch, scored


def test_advantages_with_and_without_a_baseline() -> None:
    """Scores 2, 0, 1 minus 0.5 times log-ratios 2, 0, 0 give the rewards 1, 0, 1, whose mean is 2/3."""
    made = scored([[2.0], [0.0], [1.0]], [2.0, 0.0, 0.0])
    batch_mean, _ = Reinforce(beta=0.5).advantages(made, 0.5)
    none, _ = Reinforce(beta=0.5, baseline="none").advantages(made, 0.5)
    assert batch_mean.flatten().tolist() == pytest.approx([1 / 3, -2 / 3, 1 / 3], abs=1e-12)
    assert none.flatten().tolist() == pytest.approx([1.0, 0.0, 1.0], abs=1e-12)


def test_a_baseline_with_ones_own_reward_shrinks_the_gradient_by_one_share() -> None:
    """With k = 4 answers, the advantages are 1 - 1/k times those of RLOO."""
    made = scored([[1.0], [0.0], [0.0], [3.0]])
    found, _ = Reinforce(beta=0.0).advantages(made, 0.0)
    assert found.flatten().tolist() == pytest.approx([0.75 * a for a in (0, -4 / 3, -4 / 3, 8 / 3)], abs=1e-12)


def test_loss_is_of_whole_answers() -> None:
    made = batch([[0.0, 0.0], [0.05]], [[2.0, 2.0], [-1.0]])
    loss = Reinforce(beta=0.1)(made)
    assert loss.tolist() == pytest.approx([-2.0, 1.0512710964], abs=1e-9)
    assert reinforce_loss(torch.zeros(1), torch.tensor([3.0]), clip=0.2).item() == -3.0


def test_values_out_of_range_are_refused() -> None:
    assert refused(Reinforce, beta=-0.1, baseline="moving") == ["beta", "baseline"]


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="of one shape"):
        reinforce_loss(torch.zeros(3), torch.zeros(3, 1), clip=0.2)
