"""R-DPO against closed forms. At beta 0.5, βh + α (n_w - n_l) = ln 3 makes the loss ln 4/3."""

from __future__ import annotations

import math

import pytest
import torch

from alignlab.objectives.dpo import DPO
from alignlab.objectives.r_dpo import RDPO, r_dpo_loss
from tests.objectives.build import LN2, LN3, gradients, refused, right_and_wrong, scalar


@pytest.mark.parametrize(
    ("chosen", "rejected", "longer", "loss", "gradient"),
    [
        (0.0, 0.0, 2.0, math.log(4 / 3), -1 / 8),  # the longer preferred answer needs a smaller margin
        (0.0, 0.0, -2.0, math.log(4), -3 / 8),  # a shorter one needs a larger margin
        (-LN3, LN3, 2.0, LN2, -1 / 4),
        (LN3, -LN3, 2.0, math.log(10 / 9), -1 / 20),
    ],
)
def test_value_and_gradient(chosen: float, rejected: float, longer: float, loss: float, gradient: float) -> None:
    """alpha = ln 3 / 2, so that two tokens make ln 3."""
    w, l = scalar(chosen), scalar(rejected)
    out = r_dpo_loss(w, l, torch.tensor([longer], dtype=torch.float64), beta=0.5, alpha=LN3 / 2)
    assert out.item() == pytest.approx(loss, abs=1e-12)
    assert gradients(out, w, l) == pytest.approx([gradient, -gradient], abs=1e-12)


def test_optimum_pays_for_tokens() -> None:
    """At (r - α n) / β the expected gradient over Bradley-Terry labels is zero: r = ln 3 apart, so 3/4 to 1/4."""
    longer = torch.tensor([4.0], dtype=torch.float64)
    w, l = scalar((LN3 - 0.1 * 4) / 0.5), scalar(0.0)
    won = r_dpo_loss(w, l, longer, beta=0.5, alpha=0.1)
    lost = r_dpo_loss(l, w, -longer, beta=0.5, alpha=0.1)
    assert gradients(0.75 * won + 0.25 * lost, w, l) == pytest.approx([0.0, 0.0], abs=1e-12)


def test_sums_end_token_and_masks() -> None:
    """2 tokens against 1, then 1 against 3: ln 3 + ln 3, then -ln 3 - 2 ln 3, that is σ = 9/10 and 1/28."""
    batch = right_and_wrong()
    loss = RDPO(beta=0.5, alpha=LN3)(batch)
    assert loss.tolist() == pytest.approx([math.log(10 / 9), math.log(28)], abs=1e-12)
    w0, w1, l0, l1 = -1 / 20, -27 / 56, 1 / 20, 27 / 56
    expected = [w0, w0, w1, 0, l0, 0, 0, l1, l1, l1]
    assert gradients(loss, batch.chosen.tokens, batch.rejected.tokens) == pytest.approx(expected, abs=1e-12)


def test_dpo_where_tokens_cost_nothing() -> None:
    assert RDPO(beta=0.5, alpha=0.0)(right_and_wrong()).tolist() == DPO(beta=0.5)(right_and_wrong()).tolist()


def test_what_is_said_of_it() -> None:
    assert RDPO(beta=0.3).reward_scale == 0.3
    assert RDPO(beta=0.3).loss_at_reference is None, "it depends on the lengths"


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_beta_out_of_range_is_refused(beta: float) -> None:
    assert refused(RDPO, beta=beta) == ["beta"]


def test_all_problems_at_once() -> None:
    """The price of a token may be any finite number, also a negative one."""
    for alpha in (math.nan, math.inf):
        assert refused(RDPO, beta=0.0, alpha=alpha) == ["beta", "alpha"]
    assert RDPO(beta=0.1, alpha=-0.01).alpha == -0.01
