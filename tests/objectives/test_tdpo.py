"""TDPO against closed forms. At beta 0.5, h - alpha (K_l - K_w) = 2 ln 3 makes the loss ln 4/3."""

from __future__ import annotations

import math

import pytest
import torch

from alignlab.objectives.dpo import DPO
from alignlab.objectives.tdpo import TDPO, tdpo_loss
from alignlab.types import PairLogps
from tests.objectives.build import LN2, LN3, gradients, logps, pair, refused, scalar


def moved() -> PairLogps:
    """Log-ratios 4 ln 3 and 0 with K = ln 3 and 2 ln 3; then 0 and 4 ln 3 with K = 2 ln 3 and ln 3.

    At alpha 2 the margins are 4 ln 3 - 2 ln 3 and -4 ln 3 + 2 ln 3.
    """
    w_kl = torch.tensor([LN3, 2 * LN3], dtype=torch.float64, requires_grad=True)
    l_kl = torch.tensor([2 * LN3, LN3], dtype=torch.float64, requires_grad=True)
    return PairLogps(
        logps([[-1.0, -2.0], [-4.0]], [-3 - 4 * LN3, -4.0], reference_kl=w_kl),
        logps([[-1.5], [-1.0, -3.0]], [-1.5, -4 - 4 * LN3], reference_kl=l_kl),
    )


@pytest.mark.parametrize(
    ("ratios", "kls", "loss", "slope"),
    [
        ((4 * LN3, 0.0), (LN3, 2 * LN3), math.log(4 / 3), 1 / 4),
        ((0.0, 4 * LN3), (2 * LN3, LN3), math.log(4), 3 / 4),
        ((0.0, 0.0), (0.0, 0.0), LN2, 1 / 2),
        ((LN3, LN3), (LN3, 0.0), math.log(4 / 3), 1 / 4),  # the dispreferred answer moved less: that is margin
    ],
)
def test_value_and_gradient(ratios: tuple[float, float], kls: tuple[float, float], loss: float, slope: float) -> None:
    """alpha 2: the gradient is -+beta slope in the log-ratios and -+2 beta slope in the KLs, the other way round."""
    inputs = [*map(scalar, ratios), *map(scalar, kls)]
    out = tdpo_loss(*inputs, beta=0.5, alpha=2.0)
    assert out.item() == pytest.approx(loss, abs=1e-12)
    assert gradients(out, *inputs) == pytest.approx([-slope / 2, slope / 2, -slope, slope], abs=1e-12)


def test_sums_end_token_and_masks() -> None:
    batch = moved()
    loss = TDPO(beta=0.5, alpha=2.0)(batch)
    assert loss.tolist() == pytest.approx([math.log(4 / 3), math.log(4)], abs=1e-12)
    expected = [-1 / 8, -1 / 8, -3 / 8, 0, 1 / 8, 0, 3 / 8, 3 / 8]
    assert gradients(loss, batch.chosen.tokens, batch.rejected.tokens) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("stop_gradient", "learnt"), [(True, [0.0, 0.0]), (False, [-1 / 4, -3 / 4])])
def test_tdpo2_holds_the_preferred_answers_kl_fixed(stop_gradient: bool, learnt: list[float]) -> None:
    """The value is the same; only TDPO1 has a gradient in K_w. Both have one in K_l: 2 beta times 1/4 and 3/4."""
    batch = moved()
    loss = TDPO(beta=0.5, alpha=2.0, stop_gradient=stop_gradient)(batch)
    assert loss.tolist() == pytest.approx([math.log(4 / 3), math.log(4)], abs=1e-12)
    kls = batch.chosen.reference_kl, batch.rejected.reference_kl
    w_gradient, l_gradient = torch.autograd.grad(loss.sum(), kls, allow_unused=True, materialize_grads=True)
    assert w_gradient.tolist() == pytest.approx(learnt, abs=1e-12)
    assert l_gradient.tolist() == pytest.approx([1 / 4, 3 / 4], abs=1e-12)


def test_dpo_at_alpha_0() -> None:
    assert TDPO(beta=0.5, alpha=0.0)(moved()).tolist() == DPO(beta=0.5)(moved()).tolist()


def test_what_is_said_of_it() -> None:
    assert TDPO(beta=0.3).reward_scale == 0.3
    assert TDPO(beta=0.3).loss_at_reference == pytest.approx(LN2, abs=1e-15)
    none = torch.zeros(1, dtype=torch.float64)
    same = PairLogps(logps([[-1.0, -2.0]], [-3.0], reference_kl=none), logps([[-5.0]], [-5.0], reference_kl=none))
    assert TDPO(beta=0.3, alpha=2.0)(same).item() == pytest.approx(LN2, abs=1e-12)


def test_log_probabilities_are_not_enough() -> None:
    assert TDPO(beta=0.1).requires.reference_kl
    with pytest.raises(ValueError, match="KL from the reference"):
        TDPO(beta=0.1)(pair([[-1.0]], [[-2.0]], [-1.0], [-2.0]))


@pytest.mark.parametrize("alpha", [-0.1, math.nan])
def test_alpha_out_of_range_is_refused(alpha: float) -> None:
    assert refused(TDPO, beta=0.1, alpha=alpha) == ["alpha"]


def test_all_problems_at_once() -> None:
    assert refused(TDPO, beta=0.0, alpha=-1.0) == ["beta", "alpha"]
