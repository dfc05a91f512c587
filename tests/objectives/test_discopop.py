"""DiscoPOP against closed forms. At beta 0.5 and tau 0.5, h = 2 ln 3 makes z = ln 3 and m = σ(2 ln 3) = 9/10."""

from __future__ import annotations

import math

import pytest
import torch

from alignlab.objectives.discopop import DiscoPOP, discopop_loss
from tests.objectives.build import LN2, LN3, gradients, pair, refused, right_and_wrong, scalar

RIGHT = 0.1 * math.log(4 / 3) + 0.9 / 3
WRONG = 0.9 * math.log(4) + 0.1 * 3

# With m' = m (1 - m) / tau the slope in z is m' (exp(-z) - ℓ(z)) - (1 - m) σ(-z) - m exp(-z):
RIGHT_SLOPE = 0.18 * (1 / 3 - math.log(4 / 3)) - 0.1 / 4 - 0.9 / 3
EVEN_SLOPE = 0.5 * (1 - LN2) - 0.5 / 2 - 0.5
WRONG_SLOPE = 0.18 * (3 - math.log(4)) - 0.9 * 3 / 4 - 0.1 * 3


@pytest.mark.parametrize(
    ("chosen", "rejected", "loss", "slope"),
    [
        (2 * LN3, 0.0, RIGHT, RIGHT_SLOPE),
        (0.0, 0.0, (LN2 + 1) / 2, EVEN_SLOPE),
        (-LN3, LN3, WRONG, WRONG_SLOPE),
    ],
)
def test_value_and_gradient(chosen: float, rejected: float, loss: float, slope: float) -> None:
    w, l = scalar(chosen), scalar(rejected)
    out = discopop_loss(w, l, beta=0.5, tau=0.5)
    assert out.item() == pytest.approx(loss, abs=1e-12)
    assert gradients(out, w, l) == pytest.approx([slope / 2, -slope / 2], abs=1e-12)


@pytest.mark.parametrize("tau", [0.05, 0.5, 0.95])
def test_finite_far_from_the_reference(tau: float) -> None:
    """Far from 0 it equals DPO: the loss is 0 or 1000, the gradient 0 or -beta. exp(-z) alone would be infinite."""
    h = torch.tensor([1e4, -1e4], requires_grad=True)
    loss = discopop_loss(h, torch.zeros(2), beta=0.1, tau=tau)
    assert loss.tolist() == pytest.approx([0.0, 1000.0], abs=1e-3)
    assert gradients(loss, h) == pytest.approx([0.0, -0.1], abs=1e-6)


def test_sharp_tau_is_logistic_below_and_exponential_above() -> None:
    """tau 0.01 at z = -ln 3 and ln 3: ln 4 and 1/3."""
    h = torch.tensor([-2 * LN3, 2 * LN3], dtype=torch.float64)
    loss = discopop_loss(h, torch.zeros(2, dtype=torch.float64), beta=0.5, tau=0.01)
    assert loss.tolist() == pytest.approx([math.log(4), 1 / 3], abs=1e-12)


def test_sums_end_token_and_masks() -> None:
    batch = right_and_wrong()
    loss = DiscoPOP(beta=0.5, tau=0.5)(batch)
    assert loss.tolist() == pytest.approx([RIGHT, WRONG], abs=1e-12)
    w0, w1 = RIGHT_SLOPE / 2, WRONG_SLOPE / 2
    expected = [w0, w0, w1, 0, -w0, 0, 0, -w1, -w1, -w1]
    assert gradients(loss, batch.chosen.tokens, batch.rejected.tokens) == pytest.approx(expected, abs=1e-12)


def test_what_is_said_of_it() -> None:
    assert DiscoPOP(beta=0.3).reward_scale == 0.3
    assert DiscoPOP(beta=0.3).loss_at_reference == pytest.approx((LN2 + 1) / 2, abs=1e-15)
    same = pair([[-1.0, -2.0]], [[-5.0]], [-3.0], [-5.0])
    assert DiscoPOP(beta=0.3)(same).item() == pytest.approx((LN2 + 1) / 2, abs=1e-12)


@pytest.mark.parametrize("tau", [0.0, -0.05, 1.0, 2.0, math.nan])
def test_tau_out_of_range_is_refused(tau: float) -> None:
    assert refused(DiscoPOP, beta=0.1, tau=tau) == ["tau"]


def test_all_problems_at_once() -> None:
    wrong = refused(DiscoPOP, beta=0.0, divergence="kl", divergence_alpha=2.0, tau=1.0)
    assert wrong == ["beta", "divergence", "divergence_alpha", "tau"]


@pytest.mark.parametrize(("tau", "slope"), [(0.05, 0.784264), (0.2, -0.366434)])
def test_the_slope_where_training_starts(tau: float, slope: float) -> None:
    """The slope is (1 - ln 2) / (4 tau) - 3/4. It is above 0 at the default, and then there is a remark."""
    chosen, rejected = scalar(0.0), scalar(0.0)
    discopop_loss(chosen, rejected, beta=1.0, tau=tau).backward()
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(slope, abs=1e-6)
    assert any("lowers margins" in line for line in DiscoPOP(beta=0.1, tau=tau).data_warnings({})) == (slope > 0)
