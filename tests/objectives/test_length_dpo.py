"""Length-normalised DPO against closed forms. At beta 0.5, 2 ln 3 nats per token make σ(z) = 3/4."""

from __future__ import annotations

import math

import pytest
import torch

from alignlab.objectives.dpo import DPO
from alignlab.objectives.length_dpo import LengthDPO, length_dpo_loss
from tests.objectives.build import LN2, LN3, gradients, pair, refused, scalar


@pytest.mark.parametrize(
    ("chosen", "rejected", "loss", "gradient"),
    [
        (2 * LN3, 0.0, math.log(4 / 3), -1 / 8),
        (0.0, 0.0, LN2, -1 / 4),
        (-LN3, LN3, math.log(4), -3 / 8),
    ],
)
def test_value_and_gradient(chosen: float, rejected: float, loss: float, gradient: float) -> None:
    w, l = scalar(chosen), scalar(rejected)
    out = length_dpo_loss(w, l, beta=0.5)
    assert out.item() == pytest.approx(loss, abs=1e-12)
    assert gradients(out, w, l) == pytest.approx([gradient, -gradient], abs=1e-12)


def test_log_ratios_are_divided_by_their_own_lengths() -> None:
    """Row 0: 4 ln 3 over 2 tokens against 0 over 3. Row 1: 0 over 1 against 2 ln 3 over 1.

    The gradient of a token is +-1/8 or +-3/8 divided by the number of tokens.
    """
    batch = pair([[-1.0, -2.0], [-4.0]], [[-1.0, -1.0, -3.0], [-1.5]], [-3 - 4 * LN3, -4.0], [-5.0, -1.5 - 2 * LN3])
    loss = LengthDPO(beta=0.5)(batch)
    assert loss.tolist() == pytest.approx([math.log(4 / 3), math.log(4)], abs=1e-12)
    expected = [-1 / 16, -1 / 16, -3 / 8, 0, 1 / 24, 1 / 24, 1 / 24, 3 / 8, 0, 0]
    assert gradients(loss, batch.chosen.tokens, batch.rejected.tokens) == pytest.approx(expected, abs=1e-12)


def test_dpo_where_every_answer_is_one_token() -> None:
    batch = pair([[-1.0], [-4.0]], [[-2.5], [-0.5]], [-3.0, -2.0], [-1.0, -4.0])
    torch.testing.assert_close(LengthDPO(beta=0.7)(batch), DPO(beta=0.7)(batch), atol=0, rtol=0)


def test_a_divergence_is_of_the_whole_answer_and_then_divided() -> None:
    """Ratios u = 4 over 2 tokens and 1/2 over 1: forward KL scores 3/4 and -1, so the margin is 3/8 + 1."""
    batch = pair([[-1.0, -1.0]], [[-2.0]], [-2 - 2 * LN2], [-2 + LN2])
    loss = LengthDPO(beta=0.5, divergence="forward_kl")(batch)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-11 / 16)), abs=1e-12)


def test_what_is_said_of_it() -> None:
    assert LengthDPO(beta=5.0).reward_scale == 5.0
    assert LengthDPO(beta=5.0).loss_at_reference == pytest.approx(LN2, abs=1e-15)
    assert LengthDPO(beta=5.0)(pair([[-1.0, -2.0]], [[-5.0]], [-3.0], [-5.0])).item() == pytest.approx(LN2)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_beta_out_of_range_is_refused(beta: float) -> None:
    assert refused(LengthDPO, beta=beta) == ["beta"]


def test_all_problems_at_once() -> None:
    wrong = refused(LengthDPO, beta=0.0, divergence="kl", divergence_alpha=2.0)
    assert wrong == ["beta", "divergence", "divergence_alpha"]
