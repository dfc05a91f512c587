"""APO-zero against closed forms. At beta 0.5 a log-ratio of 2 ln 3 makes σ = 3/4 and its slope σ (1 - σ) = 3/16."""

from __future__ import annotations

import math

import pytest
import torch

from alignlab.objectives.apo_zero import APOZero, apo_zero_loss
from tests.objectives.build import LN3, gradients, pair, refused, right_and_wrong, scalar


# [1 - σ(ρ_w / 2)] + σ(ρ_l / 2): the preferred answer is always pushed up and the other one down.
@pytest.mark.parametrize(
    ("chosen", "rejected", "loss", "w_gradient", "l_gradient"),
    [
        (0.0, 0.0, 1.0, -1 / 8, 1 / 8),
        (2 * LN3, -2 * LN3, 1 / 2, -3 / 32, 3 / 32),
        (2 * LN3, 2 * LN3, 1.0, -3 / 32, 3 / 32),  # a common shift changes the loss, because each answer has its own σ
        (-2 * LN3, 0.0, 5 / 4, -3 / 32, 1 / 8),
        (0.0, -4 * LN3, 1 / 2 + 1 / 10, -1 / 8, 9 / 200),
    ],
)
def test_value_and_gradient(chosen: float, rejected: float, loss: float, w_gradient: float, l_gradient: float) -> None:
    w, l = scalar(chosen), scalar(rejected)
    out = apo_zero_loss(w, l, beta=0.5)
    assert out.item() == pytest.approx(loss, abs=1e-12)
    assert gradients(out, w, l) == pytest.approx([w_gradient, l_gradient], abs=1e-12)


def test_between_0_and_2_far_from_the_reference() -> None:
    far = torch.tensor([1e4, -1e4])
    assert apo_zero_loss(far, -far, beta=0.1).tolist() == [0.0, 2.0]


def test_sums_end_token_and_masks() -> None:
    """(2 ln 3, 0) and (0, 2 ln 3): 1/4 + 1/2 and 1/2 + 3/4."""
    batch = right_and_wrong()
    loss = APOZero(beta=0.5)(batch)
    assert loss.tolist() == pytest.approx([3 / 4, 5 / 4], abs=1e-12)
    w0, w1, l0, l1 = -3 / 32, -1 / 8, 1 / 8, 3 / 32
    expected = [w0, w0, w1, 0, l0, 0, 0, l1, l1, l1]
    assert gradients(loss, batch.chosen.tokens, batch.rejected.tokens) == pytest.approx(expected, abs=1e-12)


def test_what_is_said_of_it() -> None:
    assert APOZero(beta=0.3).reward_scale == 0.3
    assert APOZero(beta=0.3).loss_at_reference == 1.0
    assert APOZero(beta=0.3)(pair([[-1.0, -2.0]], [[-5.0]], [-3.0], [-5.0])).item() == 1.0


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_beta_out_of_range_is_refused(beta: float) -> None:
    assert refused(APOZero, beta=beta) == ["beta"]
