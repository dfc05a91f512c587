"""Reward model on comparisons: InstructGPT, Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, section 3.5.

Margins: Llama 2, Touvron et al. 2023, https://arxiv.org/abs/2307.09288. Centring: Eisenstein et al. 2023,
https://arxiv.org/abs/2312.09244, eq. 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import at_least, check_same_shape
from alignlab.errors import Problem
from alignlab.objectives.base import Objective, logsigmoid
from alignlab.types import RankedRewards, Requires


def reward_model_loss(
    rewards: torch.Tensor, better: torch.Tensor, *, margin: torch.Tensor | None = None, centring: float = 0.0
) -> torch.Tensor:
    """mean over pairs i > j of one prompt: ℓ(r_i - r_j - m) + μ (r_i + r_j)²

    rewards: [B, K].
    better:  bool[B, K, K], True where answer i was preferred to answer j.
    margin:  [B] m, or None for m = 0.
    Returns [B], nats. Raises ValueError if shapes differ, or if a prompt has no preference between two answers.
    """
    check_same_shape(rewards, better[:, 0], better[:, :, 0], rank=2)
    if margin is not None:
        check_same_shape(rewards[:, 0], margin, rank=1)
    alone = (~better.any(dim=2).any(dim=1)).nonzero().flatten().tolist()
    if alone:
        raise ValueError(f"no two answers are graded differently in rows {alone}")
    first, second = rewards[:, :, None], rewards[:, None, :]
    lead = first - second - (0.0 if margin is None else margin[:, None, None])
    loss = -logsigmoid(lead) + centring * (first + second) ** 2
    return torch.where(better, loss, 0.0).sum(dim=(1, 2)) / better.sum(dim=(1, 2))


@dataclass
class RewardModel(Objective):
    """Bradley-Terry over all comparisons of a prompt's answers. The comparisons of one prompt are one example.

    centring: mu, weight of the squared sum of a pair's rewards. The term keeps rewards near 0; at 0 it is left out.
    margins:  whether the rewards of a pair must differ by the margin that the data gives.
    """

    centring: float = 0.0
    margins: bool = False

    strength: ClassVar[str | None] = None
    shift_invariant: ClassVar[bool] = True

    @property
    def requires(self) -> Requires:  # type: ignore[override]
        return Requires(data="rankings", margin=self.margins)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from at_least("centring", self.centring, 0.0, example=0.01, hint="0 leaves it out")

    def __call__(self, batch: RankedRewards) -> torch.Tensor:
        if self.margins and batch.margin is None:
            raise ValueError("this objective needs margins and the batch has none")
        rewards = batch.rewards.masked_fill(~batch.mask, 0.0)
        margin = batch.margin if self.margins else None
        return reward_model_loss(rewards, batch.better, margin=margin, centring=self.centring)
