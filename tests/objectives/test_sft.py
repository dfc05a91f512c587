"""SFT against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from alignlab.objectives.sft import SFT, sft_loss
from alignlab.types import Logps


def test_summed_nll_of_the_answer() -> None:
    """Uniform over 4 tokens: 3 answer tokens cost 3 ln 4, one costs ln 4."""
    logps = torch.full((2, 3), -math.log(4.0), dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert sft_loss(logps, mask).tolist() == pytest.approx([3 * math.log(4), math.log(4)], abs=1e-12)


def test_gradient_is_minus_one_on_the_answer_and_zero_elsewhere() -> None:
    logps = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    sft_loss(logps, torch.tensor([[True, False, True]])).sum().backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == [[-1.0, 0.0, -1.0]]


def test_divided_by_answer_tokens() -> None:
    assert SFT().requires.normaliser == "tokens"
    assert SFT()(Logps(torch.full((1, 2), -2.0), torch.ones(1, 2, dtype=torch.bool))).item() == 4.0


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="one shape"):
        sft_loss(torch.zeros(2, 3), torch.ones(2, 1, dtype=torch.bool))
