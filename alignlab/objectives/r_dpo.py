"""R-DPO (length penalty), Park et al. 2024, https://arxiv.org/abs/2403.19159."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import check_same_shape, finite
from alignlab.errors import Problem
from alignlab.objectives.base import logsigmoid
from alignlab.objectives.divergence import DivergencePairs
from alignlab.types import PairLogps


def r_dpo_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, longer: torch.Tensor, *, beta: float, alpha: float
) -> torch.Tensor:
    """ℓ(βh + α (n_w - n_l))

    chosen, rejected: [B] log-ratios (or f-divergence scores of them), nats.
    longer: [B] n_w - n_l, tokens.
    Returns [B], nats. Raises ValueError if shapes differ.
    With Bradley-Terry labels of a reward r, the optimal policy is proportional to π_ref exp((r - αn) / β).
    """
    check_same_shape(chosen, rejected, longer, rank=1)
    return -logsigmoid(beta * (chosen - rejected) + alpha * longer)


@dataclass
class RDPO(DivergencePairs):
    """DPO that subtracts alpha nats per token from the reward that it fits.

    beta:             strength of the regularization towards the reference, > 0.
    divergence:       f-divergence of the regularization: reverse_kl, forward_kl, js or alpha.
    divergence_alpha: alpha of divergence=alpha; 1 is the reverse KL.
    alpha:            price of a token, nats; 0 is DPO.
    """

    alpha: float = 0.01

    shift_invariant: ClassVar[bool] = True

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from finite("alpha", self.alpha, example=0.01)

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        longer = (batch.chosen.count - batch.rejected.count).to(batch.chosen.logp("sum").dtype)
        return r_dpo_loss(*self.scores(batch), longer, beta=self.beta, alpha=self.alpha)
