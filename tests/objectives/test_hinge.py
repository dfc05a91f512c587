"""Hinge loss on the DPO margin against closed forms: at beta 0.5 the kink is at h = 2."""

from __future__ import annotations

import math

import pytest
import torch

from alignlab.objectives.hinge import Hinge, hinge_loss
from tests.objectives.build import LN3, gradients, pair, refused, right_and_wrong, scalar


@pytest.mark.parametrize(
    ("chosen", "rejected", "loss", "gradient"),
    [
        (0.0, 0.0, 1.0, -0.5),
        (0.5, -0.5, 0.5, -0.5),
        (-1.0, 1.0, 2.0, -0.5),
        (1.0, -1.0, 0.0, 0.0),  # the kink
        (3.0, -1.0, 0.0, 0.0),  # beyond it
    ],
)
def test_value_and_gradient(chosen: float, rejected: float, loss: float, gradient: float) -> None:
    w, l = scalar(chosen), scalar(rejected)
    out = hinge_loss(w, l, beta=0.5)
    assert out.item() == pytest.approx(loss, abs=1e-15)
    assert gradients(out, w, l) == [gradient, -gradient]


def test_far_from_the_reference() -> None:
    assert hinge_loss(torch.tensor([1e4, -1e4]), torch.zeros(2), beta=0.1).tolist() == [0.0, 1001.0]


def test_sums_end_token_and_masks() -> None:
    """The loss is 0 at z = ln 3 > 1, and 1 + ln 3 at z = -ln 3."""
    batch = right_and_wrong()
    loss = Hinge(beta=0.5)(batch)
    assert loss.tolist() == pytest.approx([0.0, 1 + LN3], abs=1e-12)
    expected = [0, 0, -0.5, 0, 0, 0, 0, 0.5, 0.5, 0.5]
    assert gradients(loss, batch.chosen.tokens, batch.rejected.tokens) == pytest.approx(expected, abs=1e-12)


def test_what_is_said_of_it() -> None:
    assert Hinge(beta=0.3).reward_scale == 0.3
    assert Hinge(beta=0.3).loss_at_reference == 1.0
    assert Hinge(beta=0.3)(pair([[-1.0]], [[-5.0]], [-1.0], [-5.0])).item() == 1.0


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_beta_out_of_range_is_refused(beta: float) -> None:
    assert refused(Hinge, beta=beta) == ["beta"]


def test_all_problems_at_once() -> None:
    wrong = refused(Hinge, beta=0.0, divergence="kl", divergence_alpha=2.0)
    assert wrong == ["beta", "divergence", "divergence_alpha"]
