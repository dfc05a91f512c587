"""NCA on pairs against closed forms. At beta 0.5 a log-ratio of 2 ln 3 makes σ = 3/4: ℓ = ln 4/3, ℓ(-) = ln 4."""

from __future__ import annotations

import math

import pytest
import torch

from alignlab.objectives.nca import NCA, nca_loss
from tests.objectives.build import LN2, LN3, gradients, pair, refused, right_and_wrong, scalar

UP, DOWN = math.log(4 / 3), math.log(4)


# Gradients: beta [-σ(-z_w) + σ(z_w) / 2] and beta σ(z_l) / 2.
@pytest.mark.parametrize(
    ("chosen", "rejected", "loss", "w_gradient", "l_gradient"),
    [
        (0.0, 0.0, 2 * LN2, -1 / 8, 1 / 8),
        (2 * LN3, 0.0, UP + DOWN / 2 + LN2 / 2, 1 / 16, 1 / 8),  # (-1/4 + 3/8) / 2: it has risen too far
        (-2 * LN3, 2 * LN3, DOWN + UP / 2 + DOWN / 2, -5 / 16, 3 / 16),  # (-3/4 + 1/8) / 2
        (0.0, -2 * LN3, LN2 + LN2 / 2 + UP / 2, -1 / 8, 1 / 16),
    ],
)
def test_value_and_gradient(chosen: float, rejected: float, loss: float, w_gradient: float, l_gradient: float) -> None:
    w, l = scalar(chosen), scalar(rejected)
    out = nca_loss(w, l, beta=0.5)
    assert out.item() == pytest.approx(loss, abs=1e-12)
    assert gradients(out, w, l) == pytest.approx([w_gradient, l_gradient], abs=1e-12)


def test_preferred_answer_has_an_optimum_of_its_own() -> None:
    """The gradient is 0 where σ(-z) = σ(z) / 2, at z = ln 2, for any log-ratio of the other answer."""
    for other in (-9.0, 0.0, 9.0):
        w, l = scalar(LN2 / 0.5), scalar(other)
        assert gradients(nca_loss(w, l, beta=0.5), w) == pytest.approx([0.0], abs=1e-12)


def test_far_from_the_reference() -> None:
    """The loss is 500 for each answer with a large log-ratio, and 1000 for a preferred one with a very low one."""
    chosen, rejected = torch.tensor([1e4, -1e4, 1e4]), torch.tensor([-1e4, 1e4, 1e4])
    assert nca_loss(chosen, rejected, beta=0.1).tolist() == [500.0, 1500.0, 1000.0]


def test_sums_end_token_and_masks() -> None:
    batch = right_and_wrong()
    loss = NCA(beta=0.5)(batch)
    assert loss.tolist() == pytest.approx([UP + DOWN / 2 + LN2 / 2, 1.5 * LN2 + DOWN / 2], abs=1e-12)
    w0, w1, l0, l1 = 1 / 16, -1 / 8, 1 / 8, 3 / 16
    expected = [w0, w0, w1, 0, l0, 0, 0, l1, l1, l1]
    assert gradients(loss, batch.chosen.tokens, batch.rejected.tokens) == pytest.approx(expected, abs=1e-12)


def test_what_is_said_of_it() -> None:
    assert NCA(beta=0.3).reward_scale == 0.3
    assert NCA(beta=0.3).loss_at_reference == pytest.approx(2 * LN2, abs=1e-15)
    same = pair([[-1.0, -2.0]], [[-5.0]], [-3.0], [-5.0])
    assert NCA(beta=0.3)(same).item() == pytest.approx(2 * LN2, abs=1e-12)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_beta_out_of_range_is_refused(beta: float) -> None:
    assert refused(NCA, beta=beta) == ["beta"]
