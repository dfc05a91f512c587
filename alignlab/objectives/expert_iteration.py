"""Expert iteration, Anthony et al. 2017, https://arxiv.org/abs/1705.08439, and RAFT, https://arxiv.org/abs/2304.06767."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.errors import Problem
from alignlab.objectives.self_generated import Imitation, best
from alignlab.objectives.sft import sft_loss
from alignlab.types import Logps, Rollouts


def expert_iteration_loss(logp: torch.Tensor, *, mean_count: float | torch.Tensor) -> torch.Tensor:
    """-lp(y)/mean n, y among the best of the policy's own answers to a prompt

    logp: [B] summed log-probabilities, nats; mean_count: tokens per answer over the global batch.
    Returns [B], nats per token. Raises ValueError if `logp` is not [B].
    """
    return sft_loss(logp, mean_count=mean_count)


@dataclass(kw_only=True)
class ExpertIteration(Imitation):
    """Repeatedly samples answers from the current policy and imitates the best of them.

    samples:      answers per prompt, >= 2.
    kept_of_them: how many of a prompt's answers are imitated, at least 1 and fewer than `samples`.
    """

    samples: int = 4
    kept_of_them: int = 1

    fewest: ClassVar[int] = 2

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if not 1 <= self.kept_of_them < self.samples:
            text = f"must be at least 1 and less than samples ({self.samples})"
            yield Problem("kept_of_them", self.kept_of_them, text, "kept_of_them=1")

    def kept(self, rollouts: Rollouts) -> torch.Tensor:
        return best(rollouts.scores, self.kept_of_them)

    def __call__(self, batch: Logps) -> torch.Tensor:
        return expert_iteration_loss(batch.logp("sum"), mean_count=batch.batch_mean_count)
