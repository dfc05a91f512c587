"""DPO and cDPO against closed forms; the numbers are worked out in the comments."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from alignlab.objectives.dpo import DPO, dpo_loss
from tests.objectives.build import LN2, LN3, gradients, pair, refused, right_and_wrong, scalar

# At beta 0.5, h = 2 ln 3 makes z = ln 3: σ(z) = 3/4, ℓ(z) = ln 4/3, ℓ(-z) = ln 4.
RIGHT, WRONG = math.log(4 / 3), math.log(4)


# The gradient in the preferred answer is beta [-(1 - e) σ(-z) + e σ(z)], in the other one the opposite.
@pytest.mark.parametrize(
    ("chosen", "rejected", "smoothing", "loss", "gradient"),
    [
        (2 * LN3, 0.0, 0.0, RIGHT, -1 / 8),
        (0.0, 0.0, 0.0, LN2, -1 / 4),
        (0.0, 2 * LN3, 0.0, WRONG, -3 / 8),
        (2 * LN3, 0.0, 0.1, 0.9 * RIGHT + 0.1 * WRONG, -0.075),  # (-0.9/4 + 0.3/4) / 2
        (0.0, 2 * LN3, 0.1, 0.9 * WRONG + 0.1 * RIGHT, -0.325),  # (-2.7/4 + 0.1/4) / 2
    ],
)
def test_value_and_gradient(chosen: float, rejected: float, smoothing: float, loss: float, gradient: float) -> None:
    w, l = scalar(chosen), scalar(rejected)
    out = dpo_loss(w, l, beta=0.5, label_smoothing=smoothing)
    assert out.item() == pytest.approx(loss, abs=1e-12)
    assert gradients(out, w, l) == pytest.approx([gradient, -gradient], abs=1e-12)


def test_smoothed_optimum_is_the_logit_of_the_noise() -> None:
    """cDPO's minimum in beta h is logit(1 - e) = ln 9 at e = 0.1."""
    w, l = scalar(math.log(9.0) / 0.1), scalar(0.0)
    assert gradients(dpo_loss(w, l, beta=0.1, label_smoothing=0.1), w) == pytest.approx([0.0], abs=1e-12)
    assert gradients(dpo_loss(w - 0.1, l, beta=0.1, label_smoothing=0.1), w)[0] < 0


def test_far_from_the_reference() -> None:
    """At h = +-1e4 and beta 0.1 the loss is 0 or 1000 and the gradient 0 or -beta, exactly in float32."""
    far = torch.tensor([1e4, -1e4], requires_grad=True)
    loss = dpo_loss(far, torch.zeros(2), beta=0.1)
    assert loss.tolist() == [0.0, 1000.0]
    assert gradients(loss, far) == pytest.approx([0.0, -0.1], abs=1e-7)


def test_sums_end_token_and_masks() -> None:
    """Every token of an answer, including the last one, has the gradient of the sum. Padding has no gradient."""
    batch = right_and_wrong()
    loss = DPO(beta=0.5)(batch)
    assert loss.tolist() == pytest.approx([RIGHT, WRONG], abs=1e-12)
    w0, w1, l0, l1 = -1 / 8, -3 / 8, 1 / 8, 3 / 8
    expected = [w0, w0, w1, 0, l0, 0, 0, l1, l1, l1]
    assert gradients(loss, batch.chosen.tokens, batch.rejected.tokens) == pytest.approx(expected, abs=1e-12)


def test_fields_reach_the_loss() -> None:
    expected = [0.9 * RIGHT + 0.1 * WRONG, 0.9 * WRONG + 0.1 * RIGHT]
    assert DPO(beta=0.5, label_smoothing=0.1)(right_and_wrong()).tolist() == pytest.approx(expected, abs=1e-12)


# Probability ratios u = 4 and 1/2. Margins of f'(u): 3/4 - (-1); ln 8/5 - ln 2/3; (16 - 1)/2 - (1/4 - 1)/2 at alpha 3.
@pytest.mark.parametrize(
    ("fields", "margin"),
    [
        ({"divergence": "forward_kl"}, 7 / 4),
        ({"divergence": "js"}, math.log(12 / 5)),
        ({"divergence": "alpha", "divergence_alpha": 3.0}, 63 / 8),
    ],
)
def test_divergences(fields: dict[str, Any], margin: float) -> None:
    batch = pair([[-1.0]], [[-2.0]], [-1 - 2 * LN2], [-2 + LN2])
    assert DPO(beta=0.5, **fields)(batch).item() == pytest.approx(math.log1p(math.exp(-margin / 2)), abs=1e-12)


def test_no_reference_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs reference"):
        DPO(beta=0.5)(pair([[-1.0]], [[-2.0]]))


def test_shapes_are_never_broadcast() -> None:
    with pytest.raises(ValueError, match="one shape"):
        dpo_loss(torch.zeros(3), torch.zeros(1), beta=0.1)
    with pytest.raises(ValueError, match="rank 1"):
        dpo_loss(torch.zeros(3, 2), torch.zeros(3, 2), beta=0.1)


@pytest.mark.parametrize("beta", [0.0, -0.1, math.inf, math.nan])
def test_beta_out_of_range_is_refused(beta: float) -> None:
    assert refused(DPO, beta=beta) == ["beta"]


@pytest.mark.parametrize("smoothing", [0.5, -0.01, math.nan])
def test_smoothing_out_of_range_is_refused(smoothing: float) -> None:
    assert refused(DPO, beta=0.1, label_smoothing=smoothing) == ["label_smoothing"]


def test_trl1_ignores_smoothing_so_it_is_refused_there() -> None:
    assert refused(DPO, beta=0.1, label_smoothing=0.1, dialect="trl1") == ["label_smoothing"]
    assert DPO(beta=0.1, dialect="trl1").label_smoothing == 0.0
    for dialect in ("paper", "dpo_repo", "trl0", "halos", "openrlhf"):
        assert DPO(beta=0.1, label_smoothing=0.1, dialect=dialect).label_smoothing == 0.1


def test_all_problems_at_once() -> None:
    wrong = refused(DPO, beta=-1.0, divergence="kl", divergence_alpha=0.3, label_smoothing=0.7, dialect="trl")
    assert wrong == ["dialect", "beta", "divergence", "divergence_alpha", "label_smoothing"]


def test_what_is_said_of_it() -> None:
    assert DPO(beta=0.3).reward_scale == 0.3
    assert DPO(beta=0.3, label_smoothing=0.2).loss_at_reference == pytest.approx(LN2, abs=1e-15)
    same = pair([[-1.0, -2.0]], [[-5.0]], [-3.0], [-5.0])
    assert DPO(beta=0.3, label_smoothing=0.2)(same).item() == pytest.approx(LN2, abs=1e-15)
