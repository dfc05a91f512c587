"""DPO with an NLL term against closed forms. At beta 0.5, h = +-2 ln 3 makes the DPO part ln 4/3 or ln 4."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from alignlab.objectives.dpo import DPO
from alignlab.objectives.rpo import RPO, rpo_loss
from alignlab.types import PairLogps
from tests.objectives.build import LN3, gradients, refused, right_and_wrong, scalar

RIGHT, WRONG = math.log(4 / 3), math.log(4)


@pytest.mark.parametrize(
    ("chosen", "rejected", "loss", "gradient"),
    [(2 * LN3, 0.0, RIGHT + 3.0, -1 / 8), (-LN3, LN3, WRONG + 3.0, -3 / 8)],
)
def test_value_and_gradient(chosen: float, rejected: float, loss: float, gradient: float) -> None:
    """An NLL of 1.5 per token, twice."""
    w, l, nll = scalar(chosen), scalar(rejected), scalar(1.5)
    out = rpo_loss(w, l, nll, beta=0.5, nll_weight=2.0)
    assert out.item() == pytest.approx(loss, abs=1e-12)
    assert gradients(out, w, l, nll) == pytest.approx([gradient, -gradient, 2.0], abs=1e-12)


def test_nll_per_token_of_each_answer() -> None:
    """Preferred answers have NLL 3 over 2 tokens and 4 over 1 token. Doubled, the terms are 3 and 8, and the gradients
    per token -2/2 and -2/1.
    """
    batch = right_and_wrong()
    loss = RPO(beta=0.5, nll_weight=2.0, nll="mean")(batch)
    assert loss.tolist() == pytest.approx([RIGHT + 3, WRONG + 8], abs=1e-12)
    w0, w1, l0, l1 = -1 / 8 - 1, -3 / 8 - 2, 1 / 8, 3 / 8
    expected = [w0, w0, w1, 0, l0, 0, 0, l1, l1, l1]
    assert gradients(loss, batch.chosen.tokens, batch.rejected.tokens) == pytest.approx(expected, abs=1e-12)


def test_nll_over_all_tokens_of_the_batch() -> None:
    """3 and 4 over a mean length of 3/2; the mean over the batch is then 7 over 3 tokens."""
    loss = RPO(beta=0.5, nll_weight=1.0, nll="tokens")(right_and_wrong())
    assert loss.tolist() == pytest.approx([RIGHT + 2, WRONG + 8 / 3], abs=1e-12)
    assert loss.mean().item() == pytest.approx((RIGHT + WRONG) / 2 + 7 / 3, abs=1e-12)


def test_tokens_of_the_global_batch_where_rows_are_a_part_of_it() -> None:
    batch = right_and_wrong()
    part = PairLogps(replace(batch.chosen, mean_count=4.0), batch.rejected)
    assert RPO(beta=0.5, nll="tokens")(part).tolist() == pytest.approx([RIGHT + 3 / 4, WRONG + 1], abs=1e-12)
    assert RPO(beta=0.5, nll="mean")(part).tolist() == pytest.approx([RIGHT + 1.5, WRONG + 4], abs=1e-12)


def test_dpo_without_nll() -> None:
    assert RPO(beta=0.5, nll_weight=0.0)(right_and_wrong()).tolist() == DPO(beta=0.5)(right_and_wrong()).tolist()


@pytest.mark.parametrize(
    ("dialect", "nll"), [("paper", "mean"), ("openrlhf", "mean"), ("trl0", "tokens"), ("trl1", "tokens")]
)
def test_dialects(dialect: str, nll: str) -> None:
    assert RPO(beta=0.1, dialect=dialect).nll == nll
    other = {"mean": "tokens", "tokens": "mean"}[nll]
    assert RPO(beta=0.1, dialect=dialect, nll=other).nll == other, "an explicit field wins"


def test_what_is_said_of_it() -> None:
    assert RPO(beta=0.3).reward_scale == 0.3
    assert RPO(beta=0.3).loss_at_reference is None, "the NLL is there too"


@pytest.mark.parametrize("weight", [-0.1, math.nan])
def test_weight_out_of_range_is_refused(weight: float) -> None:
    assert refused(RPO, beta=0.1, nll_weight=weight) == ["nll_weight"]


def test_all_problems_at_once() -> None:
    wrong = refused(RPO, beta=0.0, nll_weight=-1.0, nll="sum", dialect="halos")
    assert wrong == ["dialect", "beta", "nll_weight", "nll"]
