"""EXO against closed forms. At beta 0.5, h = 2 ln 3 makes the policy's preference (3/4, 1/4)."""

from __future__ import annotations

import math

import pytest
import torch

from alignlab.objectives.exo import EXO, exo_loss
from tests.objectives.build import LN2, LN3, gradients, pair, refused, right_and_wrong, scalar


# KL((σ, 1 - σ) || (3/4, 1/4)), gradient beta σ (1 - σ) [z - ln 3] in the preferred answer:
#   (3/4, 1/4): none; (1/2, 1/2): 1/2 ln 2/3 + 1/2 ln 2, -1/8 ln 3; (1/4, 3/4): 1/4 ln 1/3 + 3/4 ln 3, -3/16 ln 3.
@pytest.mark.parametrize(
    ("chosen", "rejected", "loss", "gradient"),
    [
        (2 * LN3, 0.0, 0.0, 0.0),
        (0.0, 0.0, math.log(4 / 3) / 2, -LN3 / 8),
        (-LN3, LN3, LN3 / 2, -3 * LN3 / 16),
    ],
)
def test_value_and_gradient(chosen: float, rejected: float, loss: float, gradient: float) -> None:
    w, l = scalar(chosen), scalar(rejected)
    out = exo_loss(w, l, beta=0.5, epsilon=0.25)
    assert out.item() == pytest.approx(loss, abs=1e-12)
    assert gradients(out, w, l) == pytest.approx([gradient, -gradient], abs=1e-12)


def test_optimum_is_the_logit_of_the_label() -> None:
    """Loss and gradient are 0 at beta h = logit(1 - e) = ln 9 for e = 0.1. On both sides the loss is positive."""
    h = torch.tensor([math.log(9.0) / 0.2 + d for d in (-0.1, 0.0, 0.1)], dtype=torch.float64, requires_grad=True)
    loss = exo_loss(h, torch.zeros(3, dtype=torch.float64), beta=0.2, epsilon=0.1)
    left, middle, right = gradients(loss, h)
    assert [loss[1].item(), middle] == pytest.approx([0.0, 0.0], abs=1e-12)
    assert loss[0] > 1e-6 < loss[2]
    assert left < 0 < right


def test_bounded_far_from_the_reference() -> None:
    """The policy's preference is (1, 0) or (0, 1): the loss is -ln(1 - e) or -ln e, and there is no gradient."""
    h = torch.tensor([1e4, -1e4], requires_grad=True)
    loss = exo_loss(h, torch.zeros(2), beta=0.1, epsilon=1e-3)
    assert loss.tolist() == pytest.approx([-math.log(0.999), -math.log(0.001)], rel=1e-6)
    assert gradients(loss, h) == [0.0, 0.0]


def test_sums_end_token_and_masks() -> None:
    batch = right_and_wrong()
    loss = EXO(beta=0.5, epsilon=0.25)(batch)
    assert loss.tolist() == pytest.approx([0.0, LN3 / 2], abs=1e-12)
    w1, l1 = -3 * LN3 / 16, 3 * LN3 / 16
    expected = [0, 0, w1, 0, 0, 0, 0, l1, l1, l1]
    assert gradients(loss, batch.chosen.tokens, batch.rejected.tokens) == pytest.approx(expected, abs=1e-12)


def test_what_is_said_of_it() -> None:
    objective = EXO(beta=0.3, epsilon=0.25)
    assert objective.reward_scale == 0.3
    assert objective.loss_at_reference == pytest.approx(math.log(4 / 3) / 2, abs=1e-12)
    same = pair([[-1.0, -2.0]], [[-5.0]], [-3.0], [-5.0])
    assert objective(same).item() == pytest.approx(math.log(4 / 3) / 2, abs=1e-12)
    assert EXO(beta=0.3).loss_at_reference == pytest.approx(-LN2 - math.log(0.999 * 0.001) / 2, abs=1e-12)


@pytest.mark.parametrize("epsilon", [0.0, -0.1, 0.5, 1.0, math.nan])
def test_epsilon_out_of_range_is_refused(epsilon: float) -> None:
    assert refused(EXO, beta=0.1, epsilon=epsilon) == ["epsilon"]


def test_all_problems_at_once() -> None:
    wrong = refused(EXO, beta=0.0, divergence="kl", divergence_alpha=2.0, epsilon=0.5)
    assert wrong == ["beta", "divergence", "divergence_alpha", "epsilon"]
