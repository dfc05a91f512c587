"""Hinge loss on the DPO margin ("SLiC-norm"), RSO, Liu et al. 2023, https://arxiv.org/abs/2309.06657."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import check_same_shape
from alignlab.objectives.divergence import DivergencePairs
from alignlab.types import PairLogps


def hinge_loss(chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float) -> torch.Tensor:
    """max(0, 1 - βh)

    chosen, rejected: [B] log-ratios (or f-divergence scores of them), nats. [B]; gradient 0 at the kink.
    """
    check_same_shape(chosen, rejected, rank=1)
    return torch.relu(1 - beta * (chosen - rejected))


@dataclass
class Hinge(DivergencePairs):
    """A pair has a gradient until its margin h reaches 1 / beta, and none beyond that.

    beta:             strength of the regularization towards the reference, > 0.
    divergence:       f-divergence of the regularization: reverse_kl, forward_kl, js or alpha.
    divergence_alpha: alpha of divergence=alpha; 1 is the reverse KL.
    """

    shift_invariant: ClassVar[bool] = True

    @property
    def loss_at_reference(self) -> float:
        return 1.0

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        return hinge_loss(*self.scores(batch), beta=self.beta)
