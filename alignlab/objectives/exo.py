"""EXO on pairs, Ji et al. 2024, https://arxiv.org/abs/2402.00856, eq. 16."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import check_same_shape
from alignlab.errors import Problem
from alignlab.objectives.base import logsigmoid
from alignlab.objectives.divergence import DivergencePairs
from alignlab.types import PairLogps


def exo_loss(chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float, epsilon: float) -> torch.Tensor:
    """KL( (σ(βh), σ(-βh)) ‖ (1 - ε, ε) )

    chosen, rejected: [B] log-ratios (or f-divergence scores of them), nats.
    Returns [B], nats. Raises ValueError if shapes differ.
    """
    check_same_shape(chosen, rejected, rank=1)
    z = beta * (chosen - rejected)
    win, lose = logsigmoid(z), logsigmoid(-z)
    return torch.sigmoid(z) * (win - math.log1p(-epsilon)) + torch.sigmoid(-z) * (lose - math.log(epsilon))


@dataclass
class EXO(DivergencePairs):
    """The reverse KL between the policy's preference and the label. DPO minimises the forward KL instead.

    beta:             strength of the regularization towards the reference, > 0.
    divergence:       f-divergence of the regularization: reverse_kl, forward_kl, js or alpha.
    divergence_alpha: alpha of divergence=alpha; 1 is the reverse KL.
    epsilon:          probability that the smoothed label gives to the rejected answer, in (0, 0.5).
    """

    epsilon: float = 1e-3

    monotone: ClassVar[bool] = False
    shift_invariant: ClassVar[bool] = True

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if not 0 < self.epsilon < 0.5:
            yield Problem("epsilon", self.epsilon, "must lie in (0, 0.5): at 0 the KL is infinite", "epsilon=0.001")

    @property
    def loss_at_reference(self) -> float:
        return -math.log(2.0) - (math.log1p(-self.epsilon) + math.log(self.epsilon)) / 2

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        return exo_loss(*self.scores(batch), beta=self.beta, epsilon=self.epsilon)
