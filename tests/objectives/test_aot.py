"""AOT against sorting by hand. At beta ln 3, a difference k has the loss ln(1 + 3^-k) and the slope 1 / (1 + 3^k)."""

from __future__ import annotations

import math

import pytest
import torch

from alignlab.objectives.aot import AOT, aot_loss
from alignlab.objectives.dpo import DPO, dpo_loss
from alignlab.types import PairLogps
from tests.objectives.build import LN2, LN3, gradients, pair, refused


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def crossed() -> PairLogps:
    """Policy margins 3 and -1 against reference margins 0 and 2; log-ratios 3 and 0 against 0 and 3.

    Paired:   3 meets 2 and -1 meets 0: differences 1 and -1, where DPO has 3 and -3.
    Unpaired: 3 meets 3 and 0 meets 0: differences 0 and 0.
    """
    return pair([[-1.0, -1.0], [-3.0]], [[-5.0], [-0.5, -1.5]], [-5.0, -3.0], [-5.0, -5.0])


def test_equal_ranks_meet() -> None:
    """3, 1, 2 are compared with 0, 2, -2: the differences 3 - 2, 1 - (-2) and 2 - 0 are 1, 3 and 2. Gradients follow
    the permutation.
    """
    better, worse = vector(3.0, 1.0, 2.0), vector(0.0, 2.0, -2.0)
    loss = aot_loss(better, worse, beta=LN3)
    assert loss.tolist() == pytest.approx([math.log(4 / 3), math.log(28 / 27), math.log(10 / 9)], abs=1e-12)
    expected = [-LN3 / 4, -LN3 / 28, -LN3 / 10, LN3 / 10, LN3 / 4, LN3 / 28]
    assert gradients(loss, better, worse) == pytest.approx(expected, abs=1e-12)


def test_label_smoothing() -> None:
    """At difference 1: 0.9 ln 4/3 + 0.1 ln 4, gradient -beta (0.9 / 4 - 0.1 * 3 / 4)."""
    better, worse = vector(3.0), vector(2.0)
    loss = aot_loss(better, worse, beta=LN3, label_smoothing=0.1)
    assert loss.item() == pytest.approx(0.9 * math.log(4 / 3) + 0.1 * math.log(4), abs=1e-12)
    assert gradients(loss, better, worse) == pytest.approx([-0.15 * LN3, 0.15 * LN3], abs=1e-12)


def test_dpo_for_one_row_and_for_equal_order() -> None:
    one, other = vector(-3.0), vector(4.0)
    torch.testing.assert_close(aot_loss(one, other, beta=0.3), dpo_loss(one, other, beta=0.3), atol=0, rtol=0)
    better, worse = vector(2.0, -1.0, 5.0), vector(4.0, 3.0, 6.0)
    torch.testing.assert_close(aot_loss(better, worse, beta=0.3), dpo_loss(better, worse, beta=0.3), atol=0, rtol=0)
    reverse = vector(3.0, 4.0, -6.0)
    assert (aot_loss(better, reverse, beta=0.3) - dpo_loss(better, reverse, beta=0.3)).abs().max() > 0.1


def test_order_of_the_other_distribution_is_inert() -> None:
    better = vector(3.0, 1.0, 2.0)
    first, second = (aot_loss(better, worse, beta=0.3) for worse in (vector(0.0, 2.0, -2.0), vector(2.0, -2.0, 0.0)))
    assert first.tolist() == second.tolist()


def test_paired_sorts_margins() -> None:
    """Only the policy's log-probabilities have a gradient: -beta / (1 + 3) and -beta / (1 + 1/3), or the opposite."""
    batch = crossed()
    loss = AOT(beta=LN3)(batch)
    assert loss.tolist() == pytest.approx([math.log(4 / 3), math.log(4)], abs=1e-12)
    expected = [-LN3 / 4, -LN3 / 4, -3 * LN3 / 4, 0, LN3 / 4, 0, 3 * LN3 / 4, 3 * LN3 / 4]
    assert gradients(loss, batch.chosen.tokens, batch.rejected.tokens) == pytest.approx(expected, abs=1e-12)


def test_unpaired_sorts_log_ratios() -> None:
    """The preferred answer of one row is compared with the dispreferred answer of the other row."""
    batch = crossed()
    loss = AOT(beta=LN3, pairing="unpaired")(batch)
    assert loss.tolist() == pytest.approx([LN2, LN2], abs=1e-12)
    smoothed = AOT(beta=LN3, pairing="unpaired", label_smoothing=0.1)(batch)
    expected = [-0.4 * LN3, -0.4 * LN3, -0.4 * LN3, 0, 0.4 * LN3, 0, 0.4 * LN3, 0.4 * LN3]
    assert gradients(smoothed, batch.chosen.tokens, batch.rejected.tokens) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("pairing", ["paired", "unpaired"])
def test_one_pair_is_dpo(pairing: str) -> None:
    batch = pair([[-1.0, -2.0]], [[-4.0]], [-2.0], [-1.5])
    torch.testing.assert_close(AOT(beta=0.3, pairing=pairing)(batch), DPO(beta=0.3)(batch), atol=1e-12, rtol=0)


def test_what_is_said_of_it() -> None:
    assert AOT(beta=0.3).reward_scale == 0.3
    assert AOT(beta=0.3).requires.couples_batch
    same = pair([[-1.0, -2.0], [-7.0]], [[-5.0], [-0.5]], [-3.0, -7.0], [-5.0, -0.5])
    for objective in (AOT(beta=0.3), AOT(beta=0.3, pairing="unpaired", label_smoothing=0.2)):
        assert objective.loss_at_reference == pytest.approx(LN2, abs=1e-15)
        assert objective(same).tolist() == pytest.approx([LN2, LN2], abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.5, -0.1, math.nan])
def test_smoothing_out_of_range_is_refused(smoothing: float) -> None:
    assert refused(AOT, beta=0.1, label_smoothing=smoothing) == ["label_smoothing"]


def test_all_problems_at_once() -> None:
    assert refused(AOT, beta=0.0, label_smoothing=0.5, pairing="both") == ["beta", "label_smoothing", "pairing"]
