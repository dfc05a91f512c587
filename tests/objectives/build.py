"""Small batches written out by hand, for the closed-form tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from alignlab.errors import ConfigError
from alignlab.types import Logps, PairLogps

LN2, LN3 = math.log(2.0), math.log(3.0)


def scalar(value: float) -> Tensor:
    """A float64 tensor [1] with gradient."""
    return torch.tensor([value], dtype=torch.float64, requires_grad=True)


def logps(rows: Sequence[Sequence[float]], reference: Sequence[float] | None = None, **more: Any) -> Logps:
    """Float64 answers with these token log-probabilities. Rows may differ in length; padding (mask False) is NaN."""
    width = max(len(row) for row in rows)
    tokens = torch.tensor([[*row, *[float("nan")] * (width - len(row))] for row in rows], dtype=torch.float64)
    mask = torch.arange(width)[None] < torch.tensor([len(row) for row in rows])[:, None]
    total = None if reference is None else torch.tensor(reference, dtype=torch.float64)
    return Logps(tokens.requires_grad_(), mask, total, **more)


def pair(
    chosen: Sequence[Sequence[float]],
    rejected: Sequence[Sequence[float]],
    chosen_reference: Sequence[float] | None = None,
    rejected_reference: Sequence[float] | None = None,
) -> PairLogps:
    """Pairs of answers with these token log-probabilities."""
    return PairLogps(logps(chosen, chosen_reference), logps(rejected, rejected_reference))


def gradients(loss: Tensor, *inputs: Tensor) -> list[float]:
    """Gradient of the summed loss: d(sum of the loss)/d(input) for each entry of each input, in one list."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss.sum(), inputs)]).tolist()


def refused(objective: Callable[..., object], **fields: Any) -> list[str]:
    """Keys of the problems for which these fields are rejected, in the order of the problems."""
    with pytest.raises(ConfigError) as caught:
        objective(**fields)
    return [problem.key for problem in caught.value.problems]


def right_and_wrong() -> PairLogps:
    """Log-ratios (2 ln 3, 0) and (0, 2 ln 3): h = 2 ln 3 and -2 ln 3. At beta 0.5, σ(βh) = 3/4 and 1/4.

    The last number of each row is its end-of-sequence token. Sums: -3 and -4 preferred, -1.5 and -4.5 dispreferred.
    """
    return pair([[-1.0, -2.0], [-4.0]], [[-1.5], [-1.0, -1.0, -2.5]], [-3 - 2 * LN3, -4.0], [-1.5, -4.5 - 2 * LN3])
