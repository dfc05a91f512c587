"""Objectives of reward models, on graded answers that a scalar head scores."""

from __future__ import annotations

import torch
from torch import Tensor

from alignlab.data.collate import RankingBatch
from alignlab.models.heads import answer_rewards
from alignlab.modules.base import AlignmentModule
from alignlab.types import RankedRewards

# Number of confidence intervals of the calibration error.
_BINS = 10


class RewardModule(AlignmentModule):
    """Trains on the rewards of all answers to a prompt, by one forward pass. Logs accuracy and calibration."""

    def compute_logps(self, batch: RankingBatch, mean_count: float) -> RankedRewards:
        """[B, K] rewards of the answers to each prompt, 0 off the mask."""
        by_row = answer_rewards(self.policy, batch.rows)
        rewards = by_row.new_zeros(batch.mask.shape).masked_scatter(batch.mask, by_row)
        return RankedRewards(rewards, batch.mask, batch.grades, batch.margin.to(rewards))

    def finiteness_check(self, values: RankedRewards) -> Tensor:
        return values.rewards.detach().sum(dim=1)

    def compute_metrics(self, values: RankedRewards) -> dict[str, Tensor]:
        """Accuracy and margin are means over comparisons, with the same weight for each prompt. Rewards are means over
        answers.
        """
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
    """Expected calibration error (Guo et al. 2017, https://arxiv.org/abs/1706.04599, eq. 3), a scalar.

    It compares the confidence σ(|lead|) with the share of won comparisons, in intervals of the confidence.
    lead:  [B, K, K] rewards of better minus worse answers.
    share: [B, K, K] weight of each comparison. The weights sum to 1, and are 0 if there is no comparison.
    """
    confidence = torch.sigmoid(lead.abs())
    won = (lead > 0).float() + 0.5 * (lead == 0)
    place = ((confidence - 0.5) * 2 * _BINS).long().clamp(max=_BINS - 1)
    missed = lead.new_zeros(_BINS).index_add(0, place.flatten(), (share * (won - confidence)).flatten())
    return missed.abs().sum()
