"""Log-probabilities with their masks."""

from __future__ import annotations

import pytest
import torch

from alignlab.types import Logps


def test_sum_mean_and_ratio() -> None:
    """Two tokens of -1 and -3 against a reference of -5: sum -4, mean -2, ratio 1, 0.5 per token."""
    logps = Logps(torch.tensor([[-1.0, -3.0, 7.0]]), torch.tensor([[True, True, False]]), torch.tensor([-5.0]))
    assert [logps.logp("sum").item(), logps.logp("mean").item()] == [-4.0, -2.0]
    assert [logps.logratio("sum").item(), logps.logratio("mean").item()] == [1.0, 0.5]
    assert logps.count.tolist() == [2]


def test_rows_without_tokens_are_named() -> None:
    mask = torch.ones(4, 3, dtype=torch.bool)
    mask[2] = False
    with pytest.raises(ValueError, match=r"rows \[2\]"):
        Logps(torch.zeros(4, 3), mask)


def test_no_reference_is_an_error_not_a_zero() -> None:
    with pytest.raises(ValueError, match="needs reference"):
        Logps(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)).logratio("sum")


def test_shapes_and_masks_are_checked() -> None:
    with pytest.raises(ValueError, match=r"must both be \[B, T\]"):
        Logps(torch.zeros(2, 3), torch.ones(2, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="mask must be bool"):
        Logps(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="reference must be"):
        Logps(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.zeros(1))
