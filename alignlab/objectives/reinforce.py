"""REINFORCE, Williams 1992, https://doi.org/10.1007/BF00992696, on whole answers, clipped like PPO."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from alignlab.checks import check_same_shape, one_of
from alignlab.errors import Problem
from alignlab.objectives.advantages import clipped_surrogate, over_tokens, ratio_of
from alignlab.objectives.online import SequenceGradient
from alignlab.types import RolloutLogps, Rollouts


def reinforce_loss(log_ratio: torch.Tensor, advantages: torch.Tensor, *, clip: float) -> torch.Tensor:
    """max(-A q, -A clip(q, 1 ± c)), q = π(y)/π_old(y), A = R - b, R = score - β log π_old/π_ref

    log_ratio: [B] log q of whole answers, nats; advantages: [B] of whole answers; clip: c.
    Returns [B].
    Raises ValueError if shapes differ.
    """
    check_same_shape(log_ratio, advantages, rank=1)
    return clipped_surrogate(ratio_of(log_ratio), advantages, low=clip, high=clip)


@dataclass(kw_only=True)
class Reinforce(SequenceGradient):
    """The policy gradient with one baseline for all answers.

    beta:     weight of the KL in the reward, >= 0.
    baseline: batch: the mean reward of all answers of the batch. It includes the answer's own reward, which shrinks the
              gradient by the factor 1 - 1 / answers. none: no baseline.
    samples:  answers per prompt.
    clip:     share by which an answer's probability may change before the surrogate becomes flat.
    """

    beta: float
    baseline: str = "batch"
    samples: int = 1
    clip: float = 0.2

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from one_of("baseline", self.baseline, ("batch", "none"))

    def advantages(self, rollouts: Rollouts, coefficient: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        rewards = self.rewards(rollouts, coefficient)
        return over_tokens(rewards - rewards.mean() if self.baseline == "batch" else rewards, rollouts.mask), None

    def __call__(self, batch: RolloutLogps) -> torch.Tensor:
        return reinforce_loss(self.log_ratio(batch), batch.advantages[:, 0], clip=self.clip)
