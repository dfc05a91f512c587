"""Unlikelihood against closed forms; the numbers are worked out in the comments."""

from __future__ import annotations

import math

import pytest
import torch

from alignlab.objectives.unlikelihood import LARGEST_LOGP, Unlikelihood, unlikelihood_loss
from tests.objectives.build import gradients, pair, refused

LN2, LN4 = math.log(2.0), math.log(4.0)


def test_value_and_gradient() -> None:
    """Dispreferred tokens of probability 1/2 and 1/4: log(1 - p) = -ln 2 and -ln(4/3), slopes p / (1 - p) = 1 and 1/3.

    The preferred answer has -3: loss 3 + 0.5 (ln 2 + ln 4/3).
    """
    batch = pair([[-1.0, -2.0]], [[-LN2, -LN4]])
    out = Unlikelihood(alpha=0.5)(batch)
    assert out.item() == pytest.approx(3 + 0.5 * math.log(8 / 3), abs=1e-6)
    slopes = gradients(out, batch.chosen.tokens, batch.rejected.tokens)
    assert slopes == pytest.approx([-1.0, -1.0, 0.5, 0.5 / 3], abs=1e-6)


def test_padding_of_a_shorter_answer_counts_for_nothing() -> None:
    both = Unlikelihood(alpha=1.0)(pair([[-1.0], [-1.0]], [[-LN2], [-LN2, -LN4]]))
    assert both.tolist() == pytest.approx([1 + LN2, 1 + math.log(8 / 3)], abs=1e-6)


def test_without_weight_it_is_the_likelihood_of_the_preferred_answer() -> None:
    batch = pair([[-1.0, -2.0]], [[-0.5]])
    out = Unlikelihood(alpha=0.0)(batch)
    assert out.item() == 3.0
    assert gradients(out, batch.rejected.tokens) == [0.0]


def test_a_certain_token_has_a_finite_loss_and_an_impossible_one_none() -> None:
    """-log(1 - exp(-1e-6)) = 13.8155..., and the clamp has stopped the gradient."""
    batch = pair([[0.0], [0.0]], [[0.0], [-80.0]])
    out = Unlikelihood(alpha=1.0)(batch)
    assert out.tolist() == pytest.approx([-math.log(-math.expm1(LARGEST_LOGP)), 0.0], abs=1e-4)
    assert gradients(out, batch.rejected.tokens) == [0.0, pytest.approx(0.0, abs=1e-30)]


def test_needs_pairs_without_a_reference() -> None:
    assert Unlikelihood(alpha=0.1).requires.data == "pairs"
    assert not Unlikelihood(alpha=0.1).requires.reference


@pytest.mark.parametrize("alpha", [-0.1, math.nan, math.inf])
def test_out_of_range_is_refused(alpha: float) -> None:
    assert refused(Unlikelihood, alpha=alpha) == ["alpha"]


def test_shapes_are_never_broadcast() -> None:
    with pytest.raises(ValueError, match="one shape"):
        unlikelihood_loss(torch.zeros(3), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), alpha=0.1)
