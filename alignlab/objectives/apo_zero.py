"""APO-zero, D'Oosterlinck et al. 2024, https://arxiv.org/abs/2408.06266, eq. 7."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alignlab.checks import check_same_shape
from alignlab.objectives.base import ReferencePairs
from alignlab.types import PairLogps


def apo_zero_loss(chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float) -> torch.Tensor:
    """[1 - σ(βρ_w)] + σ(βρ_l)

    chosen, rejected: [B] log-ratios, nats.
    Returns [B], in (0, 2). Raises ValueError if shapes differ.
    """
    check_same_shape(chosen, rejected, rank=1)
    return torch.sigmoid(-beta * chosen) + torch.sigmoid(beta * rejected)


@dataclass
class APOZero(ReferencePairs):
    """Pushes preferred answers up and dispreferred ones down. It is for answers that are better than the model's own.

    beta: strength of the regularization towards the reference, > 0.
    """

    @property
    def loss_at_reference(self) -> float:
        return 1.0

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        return apo_zero_loss(batch.chosen.logratio("sum"), batch.rejected.logratio("sum"), beta=self.beta)
