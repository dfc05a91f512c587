"""Squared hinge loss on the DPO margin, GPO, Tang et al. 2024, https://arxiv.org/abs/2402.05749."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import check_same_shape
from alignlab.objectives.divergence import DivergencePairs
from alignlab.types import PairLogps


def squared_hinge_loss(chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float) -> torch.Tensor:
    """max(0, 1 - βh)²

    chosen, rejected: [B] log-ratios, nats. Returns [B].
    """
    check_same_shape(chosen, rejected, rank=1)
    return torch.relu(1 - beta * (chosen - rejected)).square()


@dataclass
class SquaredHinge(DivergencePairs):
    """Pairs teach until their margin reaches 1 / beta.

    beta:             strength of the penalty for leaving the reference, > 0.
    divergence:       the f-divergence of that penalty: reverse_kl, forward_kl, js, alpha.
    divergence_alpha: alpha of divergence=alpha; 1 is the reverse KL.
    """

    shift_invariant: ClassVar[bool] = True

    @property
    def loss_at_reference(self) -> float:
        return 1.0

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        return squared_hinge_loss(*self.scores(batch), beta=self.beta)
