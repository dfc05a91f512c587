"""Online DPO (OAIF), Guo et al. 2024, https://arxiv.org/abs/2402.04792, algorithm 1; for any loss on pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.objectives.base import Objective
from alignlab.objectives.self_generated import GeneratedPair, GeneratedPairs
from alignlab.types import PairLogps, Rollouts


def online_dpo_loss(loss: Objective, batch: PairLogps) -> torch.Tensor:
    """L(y_best, y_worst), the best and the worst of the policy's own answers to a prompt; L any loss on pairs

    The reference is the policy before training. Returns [B].
    """
    return loss(batch)


@dataclass(kw_only=True)
class OnlineDPO(GeneratedPairs):
    """Compares the best of a prompt's sampled answers with the worst.

    If all answers have the same score, an answer is paired with itself.

    loss:     name of an objective on pairs.
    beta:     strength of that objective (DPO's beta, IPO's tau), > 0.
    settings: other fields of that objective, to replace their defaults.
    samples:  answers per prompt, >= 2.
    """

    samples: int = 2

    fewest: ClassVar[int] = 2

    def pairs(self, rollouts: Rollouts) -> list[GeneratedPair]:
        top, low = rollouts.scores.max(dim=1), rollouts.scores.min(dim=1)
        worst = torch.where(top.values > low.values, low.indices, top.indices)
        return [(p, w, l) for p, (w, l) in enumerate(zip(top.indices.tolist(), worst.tolist(), strict=True))]

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        return online_dpo_loss(self.inner, batch)
