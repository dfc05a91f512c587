"""SPPO with hard labels, Wu et al. 2024, https://arxiv.org/abs/2405.00675, eq. 4.7 with P = 1 for the winner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import check_same_shape
from alignlab.objectives.base import ReferencePairs
from alignlab.types import PairLogps


def sppo_loss(chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float) -> torch.Tensor:
    """(ρ_w - 1/(2β))² + (ρ_l + 1/(2β))²

    chosen, rejected: [B] log-ratios, nats.
    Returns [B], nats squared. Raises ValueError if shapes differ.
    """
    check_same_shape(chosen, rejected, rank=1)
    target = 1 / (2 * beta)
    return (chosen - target) ** 2 + (rejected + target) ** 2


@dataclass
class SPPO(ReferencePairs):
    """Regression of each answer's own log-ratio to plus or minus 1 / (2 beta).

    beta: strength of the regularization towards the reference, > 0.
    """

    monotone: ClassVar[bool] = False

    @property
    def loss_at_reference(self) -> float:
        return 1 / (2 * self.beta**2)

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        return sppo_loss(batch.chosen.logratio("sum"), batch.rejected.logratio("sum"), beta=self.beta)
