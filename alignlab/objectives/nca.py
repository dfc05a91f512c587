"""NCA on pairs, Chen et al. 2024, https://arxiv.org/abs/2402.05369, table 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import check_same_shape
from alignlab.objectives.base import ReferencePairs, logsigmoid
from alignlab.types import PairLogps


def nca_loss(chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float) -> torch.Tensor:
    """ℓ(βρ_w) + ½ ℓ(-βρ_w) + ½ ℓ(-βρ_l)

    chosen, rejected: [B] log-ratios, nats.
    Returns [B], nats. Raises ValueError if shapes differ.
    """
    check_same_shape(chosen, rejected, rank=1)
    w, l = beta * chosen, beta * rejected
    return -logsigmoid(w) - 0.5 * logsigmoid(-w) - 0.5 * logsigmoid(-l)


@dataclass
class NCA(ReferencePairs):
    """Noise-contrastive: separates each answer from noise on its own; a preferred one need not fall with the other.

    beta: strength of the regularization towards the reference, > 0.
    """

    monotone: ClassVar[bool] = False

    @property
    def loss_at_reference(self) -> float:
        return 2 * math.log(2.0)

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        return nca_loss(batch.chosen.logratio("sum"), batch.rejected.logratio("sum"), beta=self.beta)
