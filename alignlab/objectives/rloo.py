"""RLOO, Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740, eq. 8, on whole answers, clipped like PPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import check_same_shape
from alignlab.objectives.advantages import clipped_surrogate, leave_one_out, over_tokens, ratio_of
from alignlab.objectives.online import SequenceGradient
from alignlab.types import RolloutLogps, Rollouts


def rloo_loss(log_ratio: torch.Tensor, advantages: torch.Tensor, *, clip: float) -> torch.Tensor:
    """max(-A q, -A clip(q, 1 ± c)), q = π(y)/π_old(y), A_i = R_i - mean of the other R_j, R = score - β log π_old/π_ref

    log_ratio: [B] log q of whole answers, nats; advantages: [B] of whole answers; clip: c.
    Returns [B].
    Raises ValueError if shapes differ.
    """
    check_same_shape(log_ratio, advantages, rank=1)
    return clipped_surrogate(ratio_of(log_ratio), advantages, low=clip, high=clip)


@dataclass(kw_only=True)
class RLOO(SequenceGradient):
    """REINFORCE whose baseline is the mean reward of the prompt's other answers. It is unbiased.

    beta:    weight of the KL in the reward, >= 0.
    samples: k, answers per prompt, >= 2.
    clip:    share by which an answer's probability may change before the surrogate becomes flat.
    """

    beta: float
    samples: int = 4
    clip: float = 0.2

    fewest: ClassVar[int] = 2

    def advantages(self, rollouts: Rollouts, coefficient: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        return over_tokens(leave_one_out(self.rewards(rollouts, coefficient)), rollouts.mask), None

    def __call__(self, batch: RolloutLogps) -> torch.Tensor:
        return rloo_loss(self.log_ratio(batch), batch.advantages[:, 0], clip=self.clip)
