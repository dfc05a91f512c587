"""Small batches of rollouts written out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignlab.types import RolloutLogps, Rollouts
from tests.objectives.build import logps

Table = Sequence[Sequence[float]]


def padded(rows: Table) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows], dtype=torch.float64)


def batch(
    log_ratios: Table,
    advantages: Table,
    *,
    values: Table | None = None,
    old_values: Table | None = None,
    returns: Table | None = None,
    reference: Table | None = None,
    longest: int = 8,
) -> RolloutLogps:
    """Answers whose tokens have moved by so much since they were given with -1 nat each; a critic that expects 0.

    reference: log-probabilities of the tokens under it; -1 each where not given.
    """
    old = padded([[-1.0] * len(row) for row in log_ratios])
    held = padded(reference) if reference is not None else old
    answers = logps([[-1.0 + r for r in row] for row in log_ratios], held.sum(dim=1).tolist(), reference_tokens=held)
    nothing = torch.zeros_like(old)
    return RolloutLogps(
        answers,
        old,
        padded(advantages),
        torch.full((len(old),), longest),
        values=padded(values) if values else nothing,
        old_values=padded(old_values) if old_values else nothing,
        returns=padded(returns) if returns else nothing,
    )


def one_answer() -> Rollouts:
    """The answer of test_advantages as a batch of rollouts."""
    return Rollouts(
        scores=torch.tensor([[1.5]], dtype=torch.float64),
        mask=torch.ones(1, 4, dtype=torch.bool),
        logps=padded([[-1.0, -2.0, -0.5, -3.0]]),
        ended=torch.tensor([True]),
        reference=padded([[-1.2, -1.5, -0.7, -2.0]]),
        values=padded([[0.1, 0.2, 0.3, 0.4]]),
    )


def scored(scores: Table, ratios: Sequence[float] | None = None) -> Rollouts:
    """Rollouts of answers of one token each. `ratios` are their log-ratios to the reference."""
    table = torch.tensor(scores, dtype=torch.float64)
    count = table.numel()
    held = torch.zeros(count, 1, dtype=torch.float64)
    moved = held if ratios is None else torch.tensor(ratios, dtype=torch.float64)[:, None]
    return Rollouts(table, torch.ones(count, 1, dtype=torch.bool), moved, torch.ones(count, dtype=torch.bool), held)
