"""Distilled best-of-n, Stiennon et al. 2020, https://arxiv.org/abs/2009.01325, appendix G.3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.objectives.online import Author
from alignlab.objectives.self_generated import Imitation, best
from alignlab.objectives.sft import sft_loss
from alignlab.types import Logps, Rollouts


def best_of_n_loss(logp: torch.Tensor, *, mean_count: float | torch.Tensor) -> torch.Tensor:
    """-lp(y*)/mean n, y* the best of n answers sampled from the policy before training

    logp: [B] summed log-probabilities, nats; mean_count: tokens per answer over the global batch.
    Returns [B], nats per token. Raises ValueError if `logp` is not [B].
    """
    return sft_loss(logp, mean_count=mean_count)


@dataclass(kw_only=True)
class BestOfN(Imitation):
    """Imitates, for each prompt, the best of several answers sampled from the policy before training.

    samples: n, answers per prompt, >= 2. The KL of best-of-n is at most log n - (n - 1)/n nats.
    """

    samples: int = 8

    fewest: ClassVar[int] = 2
    author: ClassVar[Author] = "start"

    def kept(self, rollouts: Rollouts) -> torch.Tensor:
        return best(rollouts.scores, 1)

    def __call__(self, batch: Logps) -> torch.Tensor:
        return best_of_n_loss(batch.logp("sum"), mean_count=batch.batch_mean_count)
