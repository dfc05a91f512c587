"""SLiC-HF against closed forms; the numbers are worked out in the comments."""

from __future__ import annotations

import math

import pytest
import torch

from alignlab.errors import ConfigError
from alignlab.objectives.hinge import hinge_loss
from alignlab.objectives.slic import SLiC, slic_loss
from tests.objectives.build import pair


# The preferred answer has -3 on 2 tokens: NLL term 0.1 * 3. The hinge is 1 + 3 + lp_l: 1.5, 0 at the kink, 0 beyond.
@pytest.mark.parametrize(
    ("rejected", "loss", "slopes"),
    [(-2.5, 1.8, (-1.1, 1.0)), (-4.0, 0.3, (-0.1, 0.0)), (-8.0, 0.3, (-0.1, 0.0))],
    ids=["inside", "kink", "beyond"],
)
def test_value_and_gradient(rejected: float, loss: float, slopes: tuple[float, float]) -> None:
    batch = pair([[-1.0, -2.0]], [[rejected]])
    out = SLiC(delta=1.0, nll_weight=0.1)(batch)
    chosen, other = torch.autograd.grad(out.sum(), (batch.chosen.tokens, batch.rejected.tokens))
    assert out.item() == pytest.approx(loss, abs=1e-14)
    assert chosen[0].tolist() == pytest.approx([slopes[0]] * 2, abs=1e-14)
    assert other.item() == slopes[1]


def test_delta_moves_the_kink() -> None:
    """A margin of 2 nats is 1 too small at delta 3, and large enough at delta 2."""
    batch = pair([[-3.0]], [[-5.0]])
    assert [SLiC(delta=d, nll_weight=0.0)(batch).item() for d in (3.0, 2.0, 1.0)] == [1.0, 0.0, 0.0]


def test_hinge_is_the_normalised_one_under_a_reference_of_zeros() -> None:
    """max(0, delta - h) = delta max(0, 1 - h / delta)."""
    chosen, rejected = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -2.5, -1.0]], dtype=torch.float64)
    assert torch.equal(
        slic_loss(chosen, rejected, delta=2.0, nll_weight=0.0), 2.0 * hinge_loss(chosen, rejected, beta=0.5)
    )


def test_needs_pairs_without_a_reference() -> None:
    assert SLiC().requires.data == "pairs"
    assert not SLiC().requires.reference


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ({"delta": 0.0}, ["delta"]),
        ({"nll_weight": -0.1}, ["nll_weight"]),
        ({"delta": -1.0, "nll_weight": math.nan}, ["delta", "nll_weight"]),
    ],
)
def test_out_of_range_is_refused(given: dict[str, float], keys: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        SLiC(**given)
    assert [problem.key for problem in caught.value.problems] == keys


def test_shapes_are_never_broadcast() -> None:
    with pytest.raises(ValueError, match="one shape"):
        slic_loss(torch.zeros(3), torch.zeros(1), delta=1.0, nll_weight=0.1)
