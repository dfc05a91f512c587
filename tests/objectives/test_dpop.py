"""DPO-Positive against closed forms. At beta 0.5, β (h - penalty) = ln 3 makes the loss ln 4/3."""

from __future__ import annotations

import math

import pytest
import torch

from alignlab.objectives.dpo import dpo_loss
from alignlab.objectives.dpop import DPOP, dpop_loss
from tests.objectives.build import LN2, LN3, gradients, pair, refused, right_and_wrong, scalar


# lambda 3. The dispreferred answer's gradient is beta σ(-z); the preferred one's is -1 times it, or -(1 + 3) below 0.
@pytest.mark.parametrize(
    ("chosen", "rejected", "loss", "w_gradient", "l_gradient"),
    [
        (2 * LN3, 0.0, math.log(4 / 3), -1 / 8, 1 / 8),  # above the reference: DPO
        (-LN3, -6 * LN3, math.log(4 / 3), -4 / 8, 1 / 8),  # h = 5 ln 3, less 3 ln 3
        (-LN3, LN3, math.log1p(3**2.5), -4 / 2 / (1 + 3**-2.5), 1 / 2 / (1 + 3**-2.5)),  # h = -2 ln 3, less 3 ln 3
        (0.0, 0.0, LN2, -1 / 4, 1 / 4),  # at the kink the penalty's gradient is 0
    ],
)
def test_value_and_gradient(chosen: float, rejected: float, loss: float, w_gradient: float, l_gradient: float) -> None:
    w, l = scalar(chosen), scalar(rejected)
    out = dpop_loss(w, l, beta=0.5, penalty=3.0)
    assert out.item() == pytest.approx(loss, abs=1e-12)
    assert gradients(out, w, l) == pytest.approx([w_gradient, l_gradient], abs=1e-12)


@pytest.mark.parametrize("penalty", [0.0, 0.5, 50.0])
def test_a_falling_answer_is_pulled_1_plus_lambda_as_hard(penalty: float) -> None:
    w, l = scalar(-0.01), scalar(0.3)
    up, down = gradients(dpop_loss(w, l, beta=0.3, penalty=penalty), w, l)
    assert up / down == pytest.approx(-(1 + penalty), rel=1e-12)


def test_dpo_without_penalty() -> None:
    w, l = torch.tensor([-3.0, 0.0, 2.0, -7.0]).double(), torch.tensor([1.0, 0.0, -4.0, -9.0]).double()
    torch.testing.assert_close(dpop_loss(w, l, beta=0.3, penalty=0.0), dpo_loss(w, l, beta=0.3), atol=0, rtol=0)


def test_sums_end_token_and_masks() -> None:
    """Log-ratios (2 ln 3, 0) and (0, 2 ln 3) have no penalty; (-ln 3, -6 ln 3) has a penalty of 3 ln 3."""
    batch = right_and_wrong()
    assert DPOP(beta=0.5, penalty=3.0)(batch).tolist() == pytest.approx([math.log(4 / 3), math.log(4)], abs=1e-12)
    batch = pair([[-1.0, -2.0], [-1.0]], [[-1.0], [-2.0, -2.0]], [-3 + LN3, -1.0], [-1 + 6 * LN3, -4.0])
    loss = DPOP(beta=0.5, penalty=3.0)(batch)
    assert loss.tolist() == pytest.approx([math.log(4 / 3), LN2], abs=1e-12)
    expected = [-1 / 2, -1 / 2, -1 / 4, 0, 1 / 8, 0, 1 / 4, 1 / 4]
    assert gradients(loss, batch.chosen.tokens, batch.rejected.tokens) == pytest.approx(expected, abs=1e-12)


def test_what_is_said_of_it() -> None:
    assert DPOP(beta=0.3).reward_scale == 0.3
    assert DPOP(beta=0.3).loss_at_reference == pytest.approx(LN2, abs=1e-15)
    same = pair([[-1.0, -2.0]], [[-5.0]], [-3.0], [-5.0])
    assert DPOP(beta=0.3)(same).item() == pytest.approx(LN2, abs=1e-12)


@pytest.mark.parametrize("penalty", [-0.1, -math.inf, math.nan])
def test_penalty_out_of_range_is_refused(penalty: float) -> None:
    assert refused(DPOP, beta=0.1, penalty=penalty) == ["penalty"]


def test_all_problems_at_once() -> None:
    assert refused(DPOP, beta=0.0, penalty=-1.0) == ["beta", "penalty"]
