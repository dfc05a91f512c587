"""Reward models: objectives on graded answers, scored by a scalar head."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.data.collate import RankingBatch
from alignlab.models.heads import answer_rewards
from alignlab.modules.base import AlignmentModule
from alignlab.types import RankedRewards

# Intervals of confidence over which it is compared with how often the reward model is right.
_BINS = 10


class RewardModule(AlignmentModule):
    """Rewards of all answers of a prompt in, loss and accuracy out; one forward for all answers."""

    def compute_logps(self, batch: RankingBatch, mean_count: float) -> RankedRewards:
        found = answer_rewards(self.policy, batch.rows)
        rewards = found.new_zeros(batch.mask.shape).masked_scatter(batch.mask, found)
        return RankedRewards(rewards, batch.mask, batch.grades, batch.margin.to(rewards))

    def finiteness_check(self, values: RankedRewards) -> Tensor:
        return values.rewards.detach().sum(dim=1)

    def compute_metrics(self, values: RankedRewards) -> dict[str, Tensor]:
        """Accuracy and margin over comparisons, each prompt weighing the same; rewards over answers."""
        lead = values.rewards[:, :, None] - values.rewards[:, None, :]
        better = values.better.float()
        share = better / better.sum(dim=(1, 2), keepdim=True) / len(better)
        rewards = values.rewards[values.mask]
        return {
            "accuracy": ((lead > 0) * share).sum(),
            "margin": (lead * share).sum(),
            "calibration_error": _calibration_error(lead, share),
            "mean_reward": rewards.mean(),
            "min_reward": rewards.min(),
            "max_reward": rewards.max(),
            "pref/accuracy_ties_half": (((lead > 0) + 0.5 * (lead == 0)) * share).sum(),
        }


def _calibration_error(lead: Tensor, share: Tensor) -> Tensor:
    """How far σ(|lead|) is from the share of comparisons that are won, over intervals of it (Guo et al. 2017,
    https://arxiv.org/abs/1706.04599, eq. 3).

    lead: rewards of better minus worse answers; share: weight of each comparison, summing to 1, 0 where there is none.
    """
    confidence = torch.sigmoid(lead.abs())
    won = (lead > 0).float() + 0.5 * (lead == 0)
    place = ((confidence - 0.5) * 2 * _BINS).long().clamp(max=_BINS - 1)
    missed = lead.new_zeros(_BINS).index_add(0, place.flatten(), (share * (won - confidence)).flatten())
    return missed.abs().sum()
