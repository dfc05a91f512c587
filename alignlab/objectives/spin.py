"""SPIN, Chen et al. 2024, https://arxiv.org/abs/2401.01335, eq. 4.7: against the policy of the last iteration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from alignlab.objectives.base import Objective
from alignlab.objectives.self_generated import GeneratedPair, GeneratedPairs
from alignlab.types import PairLogps, Requires, Rollouts


def spin_loss(loss: Objective, batch: PairLogps) -> torch.Tensor:
    """L(y, y') of the data's answer y and the policy's own answer y', L any loss on pairs

    The reference is the policy that sampled y', at the start of the iteration. Returns [B].
    """
    return loss(batch)


@dataclass(kw_only=True)
class SPIN(GeneratedPairs):
    """Prefers the data's answers to the policy's own. An iteration is a batch of rollouts and the updates on it.

    loss:     name of an objective on pairs.
    beta:     strength of that objective (DPO's beta, IPO's tau), > 0.
    settings: other fields of that objective, to replace their defaults.
    samples:  answers per prompt. Each is paired with the data's answer.
    """

    scored: ClassVar[bool] = False
    moving_reference: ClassVar[bool] = True

    @property
    def requires(self) -> Requires:  # type: ignore[override]
        return replace(super().requires, demonstrations=True)

    def pairs(self, rollouts: Rollouts) -> list[GeneratedPair]:
        prompts, answers = rollouts.scores.shape
        return [(p, None, k) for p in range(prompts) for k in range(answers)]

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        return spin_loss(self.inner, batch)
