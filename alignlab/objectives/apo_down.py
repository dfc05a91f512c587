"""APO-down, D'Oosterlinck et al. 2024, https://arxiv.org/abs/2408.06266, eq. 8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import check_same_shape
from alignlab.objectives.base import ReferencePairs
from alignlab.types import PairLogps


def apo_down_loss(chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float) -> torch.Tensor:
    """σ(βρ_w) + [1 - σ(βh)]

    chosen, rejected: [B] log-ratios, nats.
    Returns [B], in (0, 2). Raises ValueError if shapes differ.
    """
    check_same_shape(chosen, rejected, rank=1)
    return torch.sigmoid(beta * chosen) + torch.sigmoid(-beta * (chosen - rejected))


@dataclass
class APODown(ReferencePairs):
    """Pushes both answers down, the dispreferred one further. It is for answers that are worse than the model's own.

    beta: strength of the regularization towards the reference, > 0.
    """

    monotone: ClassVar[bool] = False

    @property
    def loss_at_reference(self) -> float:
        return 1.0

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        return apo_down_loss(batch.chosen.logratio("sum"), batch.rejected.logratio("sum"), beta=self.beta)
