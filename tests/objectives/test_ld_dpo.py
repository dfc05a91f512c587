"""LD-DPO against closed forms. At beta 0.5, a weighted margin of 2 ln 3 makes the loss ln 4/3."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from alignlab.objectives.dpo import DPO
from alignlab.objectives.ld_dpo import LDDPO, ld_dpo_loss
from alignlab.types import PairLogps
from tests.objectives.build import LN2, LN3, gradients, logps, pair, refused, scalar


def long_and_short() -> PairLogps:
    """Row 0: 3 tokens of ratios 1, 2, 4 against 1 of 4 - 2 ln 3. Row 1: 1 of ratio 1 against 2 of 1 and 4 ln 3.

    At alpha 0.5: 1 + 6/2 - (4 - 2 ln 3) = 2 ln 3, and 1 - (1 + 2 ln 3) = -2 ln 3. Padding is NaN, in both tables.
    """
    chosen = logps([[-1.0, -2.0, -3.0], [-1.0]], [-13.0, -2.0])
    rejected = logps([[-1.0], [-0.5, -1.5]], [2 * LN3 - 5, -3.0 - 4 * LN3])
    chosen_tokens = logps([[-2.0, -4.0, -7.0], [-2.0]]).tokens.detach()
    rejected_tokens = logps([[2 * LN3 - 5], [-1.5, -1.5 - 4 * LN3]]).tokens.detach()
    return PairLogps(
        replace(chosen, reference_tokens=chosen_tokens), replace(rejected, reference_tokens=rejected_tokens)
    )


@pytest.mark.parametrize(
    ("chosen", "rejected", "loss", "gradient"),
    [(2 * LN3, 0.0, math.log(4 / 3), -1 / 8), (0.0, 0.0, LN2, -1 / 4), (-LN3, LN3, math.log(4), -3 / 8)],
)
def test_value_and_gradient(chosen: float, rejected: float, loss: float, gradient: float) -> None:
    w, l = scalar(chosen), scalar(rejected)
    out = ld_dpo_loss(w, l, beta=0.5)
    assert out.item() == pytest.approx(loss, abs=1e-12)
    assert gradients(out, w, l) == pytest.approx([gradient, -gradient], abs=1e-12)


def test_tokens_beyond_the_shorter_answer_weigh_alpha() -> None:
    batch = long_and_short()
    loss = LDDPO(beta=0.5, alpha=0.5)(batch)
    assert loss.tolist() == pytest.approx([math.log(4 / 3), math.log(4)], abs=1e-12)
    expected = [-1 / 8, -1 / 16, -1 / 16, -3 / 8, 0, 0, 1 / 8, 0, 3 / 8, 3 / 16]
    assert gradients(loss, batch.chosen.tokens, batch.rejected.tokens) == pytest.approx(expected, abs=1e-12)


def test_alpha_0_hears_nothing_of_them() -> None:
    """1 - (4 - 2 ln 3) and 1 - 1."""
    batch = long_and_short()
    loss = LDDPO(beta=0.5, alpha=0.0)(batch)
    assert loss.tolist() == pytest.approx([math.log1p(math.exp(1.5) / 3), LN2], abs=1e-12)
    silent = gradients(loss, batch.chosen.tokens, batch.rejected.tokens)
    assert [i for i, g in enumerate(silent) if g] == [0, 3, 6, 8]


def test_reference_tail_in_full() -> None:
    """Row 0: -1 - 5/2 + 13 = 9.5 against 4 - 2 ln 3. Row 1: 1 against -0.5 - 1.5/2 + 3 + 4 ln 3 = 1.75 + 4 ln 3."""
    loss = LDDPO(beta=0.5, alpha=0.5, reference_tail="whole")(long_and_short())
    expected = [math.log1p(math.exp(-2.75) / 3), math.log1p(math.exp(0.375) * 9)]
    assert loss.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("tail", ["weighted", "whole"])
def test_dpo_at_alpha_1(tail: str) -> None:
    found = LDDPO(beta=0.5, alpha=1.0, reference_tail=tail)(long_and_short())
    torch.testing.assert_close(found, DPO(beta=0.5)(long_and_short()), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("dialect", "tail"), [("trl1", "weighted"), ("trl0", "whole"), ("llama_factory", "whole")])
def test_dialects(dialect: str, tail: str) -> None:
    assert LDDPO(beta=0.1, dialect=dialect).reference_tail == tail
    other = {"weighted": "whole", "whole": "weighted"}[tail]
    assert LDDPO(beta=0.1, dialect=dialect, reference_tail=other).reference_tail == other, "an explicit field wins"


def test_what_is_said_of_it() -> None:
    assert LDDPO(beta=0.3).reward_scale == 0.3
    assert LDDPO(beta=0.3, alpha=0.5).loss_at_reference == pytest.approx(LN2, abs=1e-15)
    assert LDDPO(beta=0.3, alpha=0.5, dialect="trl0").loss_at_reference is None
    assert LDDPO(beta=0.3, alpha=1.0, dialect="trl0").loss_at_reference == pytest.approx(LN2, abs=1e-15)


def test_sums_of_the_reference_are_not_enough() -> None:
    assert LDDPO(beta=0.1).requires.reference_tokens
    with pytest.raises(ValueError, match="token by token"):
        LDDPO(beta=0.1)(pair([[-1.0]], [[-2.0]], [-1.0], [-2.0]))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_alpha_out_of_range_is_refused(alpha: float) -> None:
    assert refused(LDDPO, beta=0.1, alpha=alpha) == ["alpha"]


def test_all_problems_at_once() -> None:
    wrong = refused(LDDPO, beta=0.0, alpha=2.0, reference_tail="half", dialect="paper")
    assert wrong == ["dialect", "beta", "alpha", "reference_tail"]
