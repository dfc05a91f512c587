"""Robust DPO (rDPO), Chowdhury et al. 2024, https://arxiv.org/abs/2403.00409."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import check_same_shape, within
from alignlab.errors import Problem
from alignlab.objectives.base import logsigmoid
from alignlab.objectives.divergence import DivergencePairs
from alignlab.types import PairLogps


def robust_dpo_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float, label_smoothing: float
) -> torch.Tensor:
    """[(1 - ε) ℓ(βh) - ε ℓ(-βh)] / (1 - 2ε)

    Its expectation over labels flipped with probability ε is the DPO loss on clean labels.
    chosen, rejected: [B] log-ratios (or f-divergence scores of them), nats.
    Returns [B], nats, which has no lower bound. Raises ValueError if shapes differ.
    """
    check_same_shape(chosen, rejected, rank=1)
    z = beta * (chosen - rejected)
    clean, flipped = -logsigmoid(z), -logsigmoid(-z)
    return ((1 - label_smoothing) * clean - label_smoothing * flipped) / (1 - 2 * label_smoothing)


@dataclass
class RobustDPO(DivergencePairs):
    """DPO with a correction that makes its loss unbiased if a known share of labels is flipped.

    beta:             strength of the regularization towards the reference, > 0.
    divergence:       f-divergence of the regularization: reverse_kl, forward_kl, js or alpha.
    divergence_alpha: alpha of divergence=alpha; 1 is the reverse KL.
    label_smoothing:  the share of flipped preferences ε, in [0, 0.5).
    """

    label_smoothing: float = 0.1

    shift_invariant: ClassVar[bool] = True

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from within(
            "label_smoothing", self.label_smoothing, 0.0, 0.5, example=0.1, closed=False, hint="share of flipped labels"
        )

    @property
    def loss_at_reference(self) -> float:
        return math.log(2.0)

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        return robust_dpo_loss(*self.scores(batch), beta=self.beta, label_smoothing=self.label_smoothing)

    def metrics(self, batch: PairLogps) -> dict[str, torch.Tensor]:
        return {"loss_min": self(batch).min()}
