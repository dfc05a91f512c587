"""InstructGPT: Ouyang et al. 2022."""

from __future__ import annotations

import itertools

import torch

from alignlab.objectives.reward_model import RewardModel
from alignlab.papers.claim import Claim, Exact, Paper, below, near
from alignlab.types import RankedRewards


def _loss(*rewards: float) -> float:
    """The loss of one prompt whose answers have these rewards, best first."""
    values = torch.tensor([rewards], dtype=torch.float64)
    grades = -torch.arange(len(rewards), dtype=torch.float64)[None]
    return float(RewardModel()(RankedRewards(values, torch.ones_like(values, dtype=torch.bool), grades)))


def k_way() -> dict[str, float]:
    """The loss of four ranked answers as one example, against the mean of the losses of their six pairs."""
    rewards = (2.0, 1.0, 0.0, -1.0)
    pairs = [_loss(*pair) for pair in itertools.combinations(rewards, 2)]
    return {"loss of K = 4": _loss(*rewards), "minus the mean over pairs": abs(_loss(*rewards) - sum(pairs) / 6)}


PAPER = Paper(
    name="instructgpt_2022",
    title="Training language models to follow instructions with human feedback",
    authors="Ouyang et al. 2022",
    url="https://arxiv.org/abs/2203.02155",
    claims=(
        Claim(
            name="k-way-batches",
            words="All K (K - 1) / 2 comparisons of a prompt are one example, and its loss is their mean.",
            source="section 3.5, equation 1",
            expected=(
                near("loss of K = 4", 0.2070380727, 1e-9, "derived"),
                below("minus the mean over pairs", 1e-12, "derived"),
            ),
            measured_by=Exact(k_way),
        ),
        Claim(
            name="reward-model-accuracy",
            words="The 6B reward model is right on 72.4 % of comparisons of its training labelers.",
            source="accuracy of the reward model",
            expected=(near("accuracy in %", 72.4, 0.8, "printed"),),
            measured_by=None,
            scale="full",
        ),
    ),
)
