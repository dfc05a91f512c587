"""WPO against closed forms: weights by hand from powers of two, DPO parts ln 4/3 and ln 4 from h = +-2 ln 3."""

from __future__ import annotations

import math

import pytest
import torch

from alignlab.objectives.wpo import WPO, wpo_loss
from alignlab.types import PairLogps
from tests.objectives.build import LN2, LN3, gradients, logps, pair, refused, scalar

RIGHT, WRONG = math.log(4 / 3), math.log(4)
NAN = float("nan")


def halves() -> PairLogps:
    """Two pairs of tokens whose log-probabilities and collisions are whole numbers of -ln 2; NaN in the padding.

    Row 0: preferred (1 - 1, 3 - 2), mean 1/2; dispreferred 3 - 1 = 2: together 2^-5/2. h = 2 ln 3.
    Row 1: preferred 1 - 3 = -2; dispreferred (2 - 2, 1 - 3), mean -1: together 2^3, above 1. h = -2 ln 3.
    """
    w_collision = torch.tensor([[-LN2, -2 * LN2], [-3 * LN2, NAN]], dtype=torch.float64)
    l_collision = torch.tensor([[-LN2, NAN], [-2 * LN2, -3 * LN2]], dtype=torch.float64)
    w_reference, l_reference = [-4 * LN2 - 2 * LN3, -LN2], [-3 * LN2, -3 * LN2 - 2 * LN3]
    return PairLogps(
        logps([[-LN2, -3 * LN2], [-LN2]], w_reference, collision=w_collision),
        logps([[-3 * LN2], [-2 * LN2, -LN2]], l_reference, collision=l_collision),
    )


@pytest.mark.parametrize(
    ("chosen", "rejected", "loss", "gradient"),
    [(2 * LN3, 0.0, RIGHT / 4, -1 / 32), (0.0, 0.0, LN2 / 4, -1 / 16), (-LN3, LN3, WRONG / 4, -3 / 32)],
)
def test_value_and_gradient(chosen: float, rejected: float, loss: float, gradient: float) -> None:
    """A weight of 1/4 on DPO at beta 0.5."""
    w, l = scalar(chosen), scalar(rejected)
    out = wpo_loss(w, l, torch.tensor([0.25], dtype=torch.float64), beta=0.5)
    assert out.item() == pytest.approx(loss, abs=1e-12)
    assert gradients(out, w, l) == pytest.approx([gradient, -gradient], abs=1e-12)


@pytest.mark.parametrize(("cap", "second"), [("none", 8.0), ("one", 1.0)])
def test_weights_from_tokens_and_collisions(cap: str, second: float) -> None:
    """The gradient is the weight times DPO's: weights have no gradient. The cap is on the product of the pair."""
    batch, first = halves(), 2**-2.5
    loss = WPO(beta=0.5, cap=cap)(batch)
    assert loss.tolist() == pytest.approx([first * RIGHT, second * WRONG], abs=1e-12)
    w0, w1, l0, l1 = -first / 8, -3 * second / 8, first / 8, 3 * second / 8
    expected = [w0, w0, w1, 0, l0, 0, l1, l1]
    assert gradients(loss, batch.chosen.tokens, batch.rejected.tokens) == pytest.approx(expected, abs=1e-12)


def test_greedy_text_of_a_certain_policy_weighs_one() -> None:
    """Where one token has all the probability, log pi and the collision are 0, and WPO is DPO."""
    zero = torch.zeros(1, 2, dtype=torch.float64)
    batch = PairLogps(logps([[0.0, 0.0]], [-2 * LN3], collision=zero), logps([[0.0, 0.0]], [0.0], collision=zero))
    assert WPO(beta=0.5)(batch).item() == pytest.approx(RIGHT, abs=1e-12)


@pytest.mark.parametrize(
    ("dialect", "cap"), [("paper", "none"), ("trl1", "none"), ("trl0", "one"), ("wpo_repo", "one")]
)
def test_dialects(dialect: str, cap: str) -> None:
    assert WPO(beta=0.1, dialect=dialect).cap == cap
    other = {"one": "none", "none": "one"}[cap]
    assert WPO(beta=0.1, dialect=dialect, cap=other).cap == other, "an explicit field wins"


def test_what_is_said_of_it() -> None:
    assert WPO(beta=0.3).reward_scale == 0.3
    assert WPO(beta=0.3).loss_at_reference is None, "it depends on the weights"


def test_log_probabilities_are_not_enough() -> None:
    assert WPO(beta=0.1).requires.collision
    with pytest.raises(ValueError, match=r"sum_v pi\(v\)\^2"):
        WPO(beta=0.1)(pair([[-1.0]], [[-2.0]], [-1.0], [-2.0]))


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_beta_out_of_range_is_refused(beta: float) -> None:
    assert refused(WPO, beta=beta) == ["beta"]


def test_all_problems_at_once() -> None:
    assert refused(WPO, beta=0.0, cap="two", dialect="halos") == ["dialect", "beta", "cap"]
