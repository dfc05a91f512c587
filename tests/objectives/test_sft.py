"""SFT against closed forms; the numbers are worked out in the comments."""

from __future__ import annotations

import math

import pytest
import torch

from alignlab.objectives.sft import SFT, sft_loss
from alignlab.types import Logps
from tests.objectives.build import logps


def test_mean_over_the_batch_is_the_mean_over_its_answer_tokens() -> None:
    """NLL 6 on 3 tokens and 4 on one; 2 tokens a row on average: 3 and 2, with the mean (6 + 4) / 4 tokens."""
    batch = logps([[-1.0, -2.0, -3.0], [-4.0]])
    loss = SFT()(batch)
    (slope,) = torch.autograd.grad(loss.mean(), batch.tokens)
    assert loss.tolist() == [3.0, 2.0]
    assert loss.mean().item() == 2.5
    assert slope.tolist() == [[-0.25, -0.25, -0.25], [-0.25, 0.0, 0.0]]  # padding is NaN and has no gradient


def test_uniform_over_four_tokens_costs_ln_4_a_token() -> None:
    batch = logps([[-math.log(4.0)] * 5, [-math.log(4.0)] * 2])
    assert SFT()(batch).mean().item() == pytest.approx(math.log(4.0), abs=1e-15)


def test_microbatches_divide_by_the_global_mean_length() -> None:
    """Rows of 1 and 3 tokens (2 on average) are in micro-batches of their own: 4 / 2 and 9 / 2, as in one batch."""
    rows = [[-4.0], [-2.0, -3.0, -4.0]]
    alone = [SFT()(logps([row], mean_count=2.0)).item() for row in rows]
    assert alone == [2.0, 4.5]
    assert SFT()(logps(rows)).tolist() == alone


def test_needs_completions_only() -> None:
    needs = SFT().requires
    assert needs.data == "completions"
    assert not needs.reference


def test_tokens_are_summed_before_the_loss() -> None:
    with pytest.raises(ValueError, match="rank 1"):
        sft_loss(torch.zeros(2, 3), mean_count=2.0)


def test_a_row_without_an_answer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        SFT()(Logps(torch.zeros(2, 1), torch.tensor([[True], [False]])))
