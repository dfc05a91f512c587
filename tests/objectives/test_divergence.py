"""f-divergence scores against closed forms; u = exp(r) is the probability ratio."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from alignlab.objectives.discopop import DiscoPOP, discopop_loss
from alignlab.objectives.divergence import DIVERGENCES, divergence_score
from alignlab.objectives.dpo import DPO, dpo_loss
from alignlab.objectives.exo import EXO, exo_loss
from alignlab.objectives.hinge import Hinge, hinge_loss
from alignlab.objectives.ipo import IPO, ipo_loss
from alignlab.objectives.length_dpo import LengthDPO, length_dpo_loss
from alignlab.objectives.r_dpo import RDPO
from alignlab.objectives.robust_dpo import RobustDPO, robust_dpo_loss
from alignlab.objectives.rpo import RPO
from alignlab.objectives.wpo import WPO
from alignlab.types import PairLogps
from tests.objectives.build import LN2, gradients, pair, refused, scalar

# Generators f with f(1) = 0, whose f' is the score up to a constant; alpha: (u^a - 1 - a (u - 1)) / (a (a - 1)).
GENERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "reverse_kl": lambda u: u * u.log(),
    "forward_kl": lambda u: -u.log(),
    "js": lambda u: u * u.log() - (u + 1) * ((u + 1) / 2).log(),
    "alpha": lambda u: (u**0.3 - 1 - 0.3 * (u - 1)) / (0.3 * (0.3 - 1)),
}


# At u = 4 and at u = 1/2: the score and its slope in r, u f''(u).
@pytest.mark.parametrize(
    ("divergence", "alpha", "four", "half"),
    [
        ("reverse_kl", 0.5, (2 * LN2, 1.0), (-LN2, 1.0)),
        ("forward_kl", 0.5, (3 / 4, 1 / 4), (-1.0, 2.0)),  # 1 - 1/u; 1/u
        ("js", 0.5, (math.log(8 / 5), 1 / 5), (math.log(2 / 3), 2 / 3)),  # ln 2u / (1 + u); 1 / (1 + u)
        ("alpha", 0.5, (1.0, 1 / 2), (2 - 2 * math.sqrt(2), math.sqrt(2))),  # 2 (1 - u^-1/2); u^-1/2
        ("alpha", 3.0, (15 / 2, 16.0), (-3 / 8, 1 / 4)),  # (u^2 - 1) / 2; u^2
    ],
)
def test_value_and_slope(divergence: str, alpha: float, four: tuple[float, float], half: tuple[float, float]) -> None:
    for ratio, expected in ((4.0, four), (0.5, half), (1.0, (0.0, 1 / 2 if divergence == "js" else 1.0))):
        r = scalar(math.log(ratio))
        score = divergence_score(r, divergence, alpha)
        assert (score.item(), *gradients(score, r)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_derivative_of_the_generator(divergence: str) -> None:
    """f'(u) - f'(1), f' by automatic differentiation of the f above."""
    u = torch.tensor([1.0, 0.1, 0.7, 3.0, 20.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(GENERATORS[divergence](u).sum(), u)
    score = divergence_score(u.detach().log(), divergence, 0.3)
    torch.testing.assert_close(score, slope - slope[0], atol=1e-12, rtol=1e-12)


def test_alpha_1_is_the_reverse_kl_and_0_the_forward_kl() -> None:
    r = torch.linspace(-5, 5, 11, dtype=torch.float64)
    assert torch.equal(divergence_score(r, "alpha", 1.0), r)
    for near in (1 - 1e-9, 1 + 1e-9):
        torch.testing.assert_close(divergence_score(r, "alpha", near), r, atol=2e-8, rtol=0)
    forward = divergence_score(r, "forward_kl", 0.5)
    torch.testing.assert_close(divergence_score(r, "alpha", 0.0), forward, atol=1e-12, rtol=1e-12)


def test_alpha_near_1_keeps_its_digits_in_float32() -> None:
    """A direct computation of exp((alpha - 1) r) - 1 would lose all digits."""
    r = torch.tensor([0.3, -2.0, 5.0])
    torch.testing.assert_close(divergence_score(r, "alpha", 1 + 1e-6), r, atol=0, rtol=1e-5)


@pytest.mark.parametrize(
    ("divergence", "alpha"),
    [("reverse_kl", 0.5), ("forward_kl", 0.5), ("js", 0.5), ("alpha", 0.0), ("alpha", 0.5), ("alpha", 3.0)],
)
def test_finite_and_increasing_far_away_in_float32(divergence: str, alpha: float) -> None:
    r = torch.tensor([-1e4, -10.0, 0.0, 10.0, 1e4], requires_grad=True)
    score = divergence_score(r, divergence, alpha)
    assert score.dtype == torch.float32
    assert torch.isfinite(score**2).all()
    assert torch.isfinite(torch.tensor(gradients(score, r))).all()
    assert (score.diff() >= 0).all()
    assert (score.diff()[1:3] > 0).all()


# The forward KL's scores of the ratios 4 and 1/2 are 3/4 and -1. Every loss gets these scores instead of log-ratios.
@pytest.mark.parametrize(
    ("objective", "loss", "fields"),
    [
        (DPO, dpo_loss, {"beta": 0.3}),
        (RobustDPO, robust_dpo_loss, {"beta": 0.3, "label_smoothing": 0.2}),
        (IPO, ipo_loss, {"tau": 0.3}),
        (Hinge, hinge_loss, {"beta": 0.3}),
        (LengthDPO, length_dpo_loss, {"beta": 0.3}),
        (EXO, exo_loss, {"beta": 0.3, "epsilon": 0.1}),
        (DiscoPOP, discopop_loss, {"beta": 0.3, "tau": 0.1}),
    ],
)
def test_every_margin_loss_takes_scores(
    objective: Callable[..., Any], loss: Callable[..., Tensor], fields: dict[str, float]
) -> None:
    batch = pair([[-1.0]], [[-2.0]], [-1 - 2 * LN2], [-2 + LN2])
    expected = loss(scalar(3 / 4), scalar(-1.0), **fields)
    found = objective(**fields, divergence="forward_kl")(batch)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert refused(objective, **fields, divergence="kl") == ["divergence"]


def test_losses_with_another_term_beside_the_margin_take_scores() -> None:
    """RPO, R-DPO (answers of one token) and WPO (weights of 1) are DPO's loss of the scores 3/4 and -1, plus their own
    terms.
    """
    batch = pair([[-1.0]], [[-2.0]], [-1 - 2 * LN2], [-2 + LN2])
    weighted = PairLogps(*(replace(s, collision=s.tokens.detach()) for s in (batch.chosen, batch.rejected)))
    expected = dpo_loss(scalar(3 / 4), scalar(-1.0), beta=0.3)
    for found, more in (
        (RPO(beta=0.3, nll_weight=0.5, divergence="forward_kl")(batch), 0.5),
        (RDPO(beta=0.3, alpha=0.2, divergence="forward_kl")(batch), 0.0),
        (WPO(beta=0.3, divergence="forward_kl")(weighted), 0.0),
    ):
        torch.testing.assert_close(found, expected + more, atol=1e-12, rtol=0)


@pytest.mark.parametrize("alpha", [math.nan, math.inf, -math.inf])
def test_alpha_is_a_number(alpha: float) -> None:
    assert refused(DPO, beta=0.1, divergence="alpha", divergence_alpha=alpha) == ["divergence_alpha"]


def test_an_alpha_that_nothing_reads_is_refused() -> None:
    assert refused(DPO, beta=0.1, divergence_alpha=0.7) == ["divergence_alpha"]
    assert DPO(beta=0.1, divergence="alpha", divergence_alpha=0.7).divergence_alpha == 0.7
