"""APO-down against closed forms. At beta 0.5, 2 ln 3 nats make σ = 3/4 and its slope σ (1 - σ) = 3/16."""

from __future__ import annotations

import math

import pytest
import torch

from alignlab.objectives.apo_down import APODown, apo_down_loss
from tests.objectives.build import LN3, gradients, pair, refused, right_and_wrong, scalar


# σ(ρ_w / 2) + [1 - σ(h / 2)]: gradient beta (slope of the first - slope of the second) and beta (slope of the second).
@pytest.mark.parametrize(
    ("chosen", "rejected", "loss", "w_gradient", "l_gradient"),
    [
        (0.0, 0.0, 1.0, 0.0, 1 / 8),
        (0.0, -2 * LN3, 1 / 2 + 1 / 4, 1 / 32, 3 / 32),  # (1/4 - 3/16) / 2: the preferred answer falls too
        (2 * LN3, 0.0, 3 / 4 + 1 / 4, 0.0, 3 / 32),
        (2 * LN3, 2 * LN3, 3 / 4 + 1 / 2, -1 / 32, 1 / 8),
        (-2 * LN3, -6 * LN3, 1 / 4 + 1 / 10, 3 / 32 - 9 / 200, 9 / 200),
    ],
)
def test_value_and_gradient(chosen: float, rejected: float, loss: float, w_gradient: float, l_gradient: float) -> None:
    w, l = scalar(chosen), scalar(rejected)
    out = apo_down_loss(w, l, beta=0.5)
    assert out.item() == pytest.approx(loss, abs=1e-12)
    assert gradients(out, w, l) == pytest.approx([w_gradient, l_gradient], abs=1e-12)


def test_both_answers_fall_once_they_are_apart() -> None:
    """A gradient step lowers the log-probability of both answers, and that of the dispreferred one more."""
    w, l = scalar(0.0), scalar(-3.0)
    down_w, down_l = gradients(apo_down_loss(w, l, beta=0.5), w, l)
    assert 0 < down_w < down_l


def test_between_0_and_2_far_from_the_reference() -> None:
    chosen, rejected = torch.tensor([-1e4, 1e4]), torch.tensor([-3e4, 3e4])
    assert apo_down_loss(chosen, rejected, beta=0.1).tolist() == [0.0, 2.0]


def test_sums_end_token_and_masks() -> None:
    """(2 ln 3, 0) and (0, 2 ln 3): 3/4 + 1/4 and 1/2 + 3/4."""
    batch = right_and_wrong()
    loss = APODown(beta=0.5)(batch)
    assert loss.tolist() == pytest.approx([1.0, 5 / 4], abs=1e-12)
    w1, l0, l1 = 1 / 32, 3 / 32, 3 / 32
    expected = [0, 0, w1, 0, l0, 0, 0, l1, l1, l1]
    assert gradients(loss, batch.chosen.tokens, batch.rejected.tokens) == pytest.approx(expected, abs=1e-12)


def test_what_is_said_of_it() -> None:
    assert APODown(beta=0.3).reward_scale == 0.3
    assert APODown(beta=0.3).loss_at_reference == 1.0
    assert APODown(beta=0.3)(pair([[-1.0, -2.0]], [[-5.0]], [-3.0], [-5.0])).item() == 1.0


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_beta_out_of_range_is_refused(beta: float) -> None:
    assert refused(APODown, beta=beta) == ["beta"]
