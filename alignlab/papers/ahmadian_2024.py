"""RLOO: Ahmadian et al. 2024."""

from __future__ import annotations

import torch

from alignlab.objectives import advantages
from alignlab.papers.claim import Claim, Exact, Paper, below, near
from alignlab.papers.groups_of_answers import expected_gradient, true_gradient


def unbiased() -> dict[str, float]:
    """The expected gradient with a leave-one-out baseline, over all groups of k of 5 answers, against the true one."""
    generator = torch.Generator().manual_seed(0)
    logits, rewards = (torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(2))
    truth = true_gradient(logits, rewards)
    worst = 0.0
    for k in (2, 3, 4):
        found = expected_gradient(logits, rewards, k, advantages.leave_one_out)
        worst = max(worst, float((found - truth).abs().max()))
    own = expected_gradient(logits, rewards, 4, lambda r: advantages.group_normalised(r, by_deviation=False))
    scale = float((own @ truth) / (truth @ truth))
    return {"largest error of RLOO's gradient": worst, "scale with the group's mean, k = 4": scale}


PAPER = Paper(
    name="ahmadian_2024",
    title="Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
    authors="Ahmadian et al. 2024",
    url="https://arxiv.org/abs/2402.14740",
    claims=(
        Claim(
            name="unbiased",
            words="The mean reward of the other answers is a baseline that leaves the policy gradient unbiased.",
            source="the RLOO estimator, equation 8",
            expected=(
                below("largest error of RLOO's gradient", 1e-12, "derived"),
                near("scale with the group's mean, k = 4", 0.75, 1e-12, "derived"),
            ),
            measured_by=Exact(unbiased),
            deviations=("Paper: language models. Here: 5 answers, all groups of 2, 3 and 4 enumerated.",),
            note="A baseline that includes the answer itself scales the gradient by exactly 1 - 1/k.",
        ),
        Claim(
            name="table-1-tldr",
            words="On TL;DR, RLOO with k = 4 beats PPO.",
            source="table 1: 77.9 against 67.6",
            expected=(near("RLOO minus PPO in points", 10.3, 3.0, "printed-via-notes"),),
            measured_by=None,
            scale="full",
        ),
    ),
)
