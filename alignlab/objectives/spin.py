"""SPIN, Chen et al. 2024, https://arxiv.org/abs/2401.01335, eq. 4.7: against the policy of the last iteration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from alignlab.objectives.base import Objective
from alignlab.objectives.self_generated import GeneratedPair, GeneratedPairs
from alignlab.types import PairLogps, Requires, Rollouts


def spin_loss(loss: Objective, batch: PairLogps) -> torch.Tensor:
    """L(y, y') of the data's answer y against y' of the policy that an iteration began with, which is the reference

    [B].
    """
    return loss(batch)


@dataclass(kw_only=True)
class SPIN(GeneratedPairs):
    """The data's answers against the policy's own; an iteration is a batch of rollouts and the updates made with it.

    loss:     name of the objective on pairs.
    beta:     its strength, whatever that is called there (DPO's beta, IPO's tau), > 0.
    settings: its other fields, where they are not the ones it has by itself.
    samples:  answers to each prompt, each against the data's.
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
