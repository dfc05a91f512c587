"""Exact expectations of policy gradients over all groups of k answers that a small policy can sample."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

# [P, K] rewards of groups -> [P, K] advantages.
Advantages = Callable[[torch.Tensor], torch.Tensor]


def expected_gradient(logits: torch.Tensor, rewards: torch.Tensor, k: int, advantages: Advantages) -> torch.Tensor:
    """[M] the expectation over groups of (1/k) sum_i A_i grad log pi(y_i), with respect to the logits.

    logits, rewards: [M] of the M answers, float64.
    """
    logps = torch.log_softmax(logits, dim=0)
    groups = torch.tensor(list(itertools.product(range(len(logits)), repeat=k)))  # [M^k, k]
    weight = logps[groups].sum(dim=1).exp()
    gradients = torch.eye(len(logits), dtype=torch.float64) - logps.exp()  # of log pi(y), row by row
    each = (advantages(rewards[groups])[:, :, None] * gradients[groups]).mean(dim=1)
    return (weight[:, None] * each).sum(dim=0)


def true_gradient(logits: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
    """[M] gradient of the expected reward with respect to the logits."""
    policy = torch.softmax(logits, dim=0)
    return policy * (rewards - policy @ rewards)
