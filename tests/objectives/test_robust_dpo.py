"""Robust DPO against closed forms. At beta 0.5, h = 2 ln 3 makes z = ln 3: ℓ(z) = ln 4/3, ℓ(-z) = ln 4."""

from __future__ import annotations

import math

import pytest
import torch

from alignlab.objectives.dpo import dpo_loss
from alignlab.objectives.robust_dpo import RobustDPO, robust_dpo_loss
from tests.objectives.build import LN2, LN3, gradients, pair, refused, right_and_wrong, scalar

# e = 0.1, so the divisor is 0.8.
RIGHT = (0.9 * math.log(4 / 3) - 0.1 * math.log(4)) / 0.8
WRONG = (0.9 * math.log(4) - 0.1 * math.log(4 / 3)) / 0.8


# The gradient in the preferred answer is beta [-(1 - e) σ(-z) - e σ(z)] / (1 - 2e), in the other one the opposite.
@pytest.mark.parametrize(
    ("chosen", "rejected", "loss", "gradient"),
    [
        (2 * LN3, 0.0, RIGHT, -0.1875),  # (-0.9/4 - 0.3/4) / 2 / 0.8
        (0.0, 0.0, LN2, -0.3125),  # beta / 2, divided by 1 - 2e
        (0.0, 2 * LN3, WRONG, -0.4375),  # (-2.7/4 - 0.1/4) / 2 / 0.8
    ],
)
def test_value_and_gradient(chosen: float, rejected: float, loss: float, gradient: float) -> None:
    w, l = scalar(chosen), scalar(rejected)
    out = robust_dpo_loss(w, l, beta=0.5, label_smoothing=0.1)
    assert out.item() == pytest.approx(loss, abs=1e-12)
    assert gradients(out, w, l) == pytest.approx([gradient, -gradient], abs=1e-12)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3, 0.45])
def test_expectation_over_flips_is_the_clean_loss(noise: float) -> None:
    h, zero = torch.linspace(-30, 30, 13, dtype=torch.float64), torch.zeros(13, dtype=torch.float64)
    kept = robust_dpo_loss(h, zero, beta=0.5, label_smoothing=noise)
    flipped = robust_dpo_loss(zero, h, beta=0.5, label_smoothing=noise)
    clean = dpo_loss(h, zero, beta=0.5)
    torch.testing.assert_close((1 - noise) * kept + noise * flipped, clean, atol=1e-12, rtol=0)


def test_unbounded_below() -> None:
    """For large h the loss falls by e beta / (1 - 2e) = 0.0625 per nat."""
    far, zero = torch.tensor([1000.0, 2000.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    assert robust_dpo_loss(far, zero, beta=0.5, label_smoothing=0.1).tolist() == pytest.approx([-62.5, -125.0])


def test_sums_end_token_and_masks() -> None:
    batch = right_and_wrong()
    loss = RobustDPO(beta=0.5, label_smoothing=0.1)(batch)
    assert loss.tolist() == pytest.approx([RIGHT, WRONG], abs=1e-12)
    w0, w1, l0, l1 = -0.1875, -0.4375, 0.1875, 0.4375
    expected = [w0, w0, w1, 0, l0, 0, 0, l1, l1, l1]
    assert gradients(loss, batch.chosen.tokens, batch.rejected.tokens) == pytest.approx(expected, abs=1e-12)


def test_smallest_loss_is_logged() -> None:
    metrics = RobustDPO(beta=0.5, label_smoothing=0.1).metrics(right_and_wrong())
    assert {name: value.item() for name, value in metrics.items()} == {"loss_min": pytest.approx(RIGHT, abs=1e-12)}


def test_what_is_said_of_it() -> None:
    assert RobustDPO(beta=0.3).reward_scale == 0.3
    assert RobustDPO(beta=0.3).loss_at_reference == pytest.approx(LN2, abs=1e-15)
    assert RobustDPO(beta=0.3)(pair([[-1.0]], [[-5.0]], [-1.0], [-5.0])).item() == pytest.approx(LN2, abs=1e-12)


@pytest.mark.parametrize("noise", [0.5, 0.6, -0.1, math.nan])
def test_noise_out_of_range_is_refused(noise: float) -> None:
    assert refused(RobustDPO, beta=0.1, label_smoothing=noise) == ["label_smoothing"]


def test_all_problems_at_once() -> None:
    wrong = refused(RobustDPO, beta=0.0, divergence="kl", divergence_alpha=2.0, label_smoothing=0.5)
    assert wrong == ["beta", "divergence", "divergence_alpha", "label_smoothing"]
