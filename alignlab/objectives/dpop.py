"""DPO-Positive (Smaug), Pal et al. 2024, https://arxiv.org/abs/2402.13228v2, eq. 3."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from alignlab.checks import at_least, check_same_shape
from alignlab.errors import Problem
from alignlab.objectives.base import ReferencePairs, logsigmoid
from alignlab.types import PairLogps


def dpop_loss(chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float, penalty: float) -> torch.Tensor:
    """ℓ(β (h - λ max(0, -ρ_w)))

    chosen, rejected: [B] log-ratios, nats.
    Returns [B], nats. At ρ_w = 0 the penalty's gradient is 0. Raises ValueError if shapes differ.
    """
    check_same_shape(chosen, rejected, rank=1)
    return -logsigmoid(beta * (chosen - rejected - penalty * torch.relu(-chosen)))


@dataclass
class DPOP(ReferencePairs):
    """DPO with a penalty if a preferred answer becomes less probable than it is under the reference.

    beta:    strength of the regularization towards the reference, > 0.
    penalty: lambda, weight of the penalty, >= 0; 0 is DPO.
    """

    penalty: float = 50.0

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from at_least("penalty", self.penalty, 0.0, example=50, hint="0 is DPO")

    @property
    def nondifferentiable_at_reference(self) -> bool:
        return self.penalty > 0

    @property
    def loss_at_reference(self) -> float:
        return math.log(2.0)

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        return dpop_loss(
            batch.chosen.logratio("sum"), batch.rejected.logratio("sum"), beta=self.beta, penalty=self.penalty
        )
