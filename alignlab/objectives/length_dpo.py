"""Length-normalised DPO, Tulu 3, Lambert et al. 2024, https://arxiv.org/abs/2411.15124, eq. 6."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from alignlab.checks import check_same_shape
from alignlab.objectives.base import logsigmoid
from alignlab.objectives.divergence import DivergencePairs
from alignlab.types import PairLogps


def length_dpo_loss(chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float) -> torch.Tensor:
    """ℓ(β (ρ_w/n_w - ρ_l/n_l))

    chosen, rejected: [B] log-ratios per token (or f-divergence scores per token), nats.
    Returns [B], nats. Raises ValueError if shapes differ.
    """
    check_same_shape(chosen, rejected, rank=1)
    return -logsigmoid(beta * (chosen - rejected))


@dataclass
class LengthDPO(DivergencePairs):
    """DPO on log-ratios per token, so that long answers do not have more weight.

    beta:             strength of the regularization towards the reference, > 0. For answers of 50 tokens it is about 50
                      times DPO's beta.
    divergence:       f-divergence of the regularization: reverse_kl, forward_kl, js or alpha.
    divergence_alpha: alpha of divergence=alpha; 1 is the reverse KL.
    """

    @property
    def loss_at_reference(self) -> float:
        return math.log(2.0)

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        return length_dpo_loss(*self.scores(batch, "mean"), beta=self.beta)
