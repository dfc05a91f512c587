"""SPPO with hard labels against closed forms: at beta 0.25 the targets are 2 and -2."""

from __future__ import annotations

import math

import pytest

from alignlab.objectives.sppo import SPPO, sppo_loss
from tests.objectives.build import gradients, pair, refused, scalar


# (ρ_w - 2)^2 + (ρ_l + 2)^2, gradients 2 (ρ_w - 2) and 2 (ρ_l + 2).
@pytest.mark.parametrize(
    ("chosen", "rejected", "loss", "w_gradient", "l_gradient"),
    [
        (0.0, 0.0, 8.0, -4.0, 4.0),
        (2.0, -2.0, 0.0, 0.0, 0.0),  # the minimum: both targets met
        (1.0, 1.0, 10.0, -2.0, 6.0),
        (5.0, -3.0, 10.0, 6.0, -2.0),  # too far: both are pushed back
        (0.0, -4.0, 8.0, -4.0, -4.0),  # h = 4 as at the minimum, but each answer has its own target
    ],
)
def test_value_and_gradient(chosen: float, rejected: float, loss: float, w_gradient: float, l_gradient: float) -> None:
    w, l = scalar(chosen), scalar(rejected)
    out = sppo_loss(w, l, beta=0.25)
    assert out.item() == pytest.approx(loss, abs=1e-12)
    assert gradients(out, w, l) == pytest.approx([w_gradient, l_gradient], abs=1e-12)


def test_sums_end_token_and_masks() -> None:
    """Log-ratios (1, 1) over 2 and 1 tokens, then (5, -3) over 1 and 3."""
    batch = pair([[-1.0, -2.0], [-4.0]], [[-1.5], [-1.0, -1.0, -2.5]], [-4.0, -9.0], [-2.5, -1.5])
    loss = SPPO(beta=0.25)(batch)
    assert loss.tolist() == pytest.approx([10.0, 10.0], abs=1e-12)
    expected = [-2.0, -2.0, 6.0, 0, 6.0, 0, 0, -2.0, -2.0, -2.0]
    assert gradients(loss, batch.chosen.tokens, batch.rejected.tokens) == pytest.approx(expected, abs=1e-12)


def test_what_is_said_of_it() -> None:
    """1 / (2 beta^2) = 8."""
    assert SPPO(beta=0.25).reward_scale == 0.25
    assert SPPO(beta=0.25).loss_at_reference == pytest.approx(8.0)
    same = pair([[-1.0, -2.0]], [[-5.0]], [-3.0], [-5.0])
    assert SPPO(beta=0.25)(same).item() == pytest.approx(8.0, abs=1e-12)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_beta_out_of_range_is_refused(beta: float) -> None:
    assert refused(SPPO, beta=beta) == ["beta"]
