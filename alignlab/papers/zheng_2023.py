"""MT-Bench and position bias: Zheng et al. 2023."""

from __future__ import annotations

import numpy as np

from alignlab.papers.claim import Claim, Paper, Sampled, above, near
from alignlab.papers.tabular import sigmoid
from alignlab.statistics.winrate import win_rate

_BIAS = 0.8


def both_orders(seed: int) -> dict[str, float]:
    """2,000 pairs of equal quality; the judge prefers the answer shown first by log-odds of 0.8."""
    return simulated(seed, _BIAS)


def simulated(seed: int, bias: float) -> dict[str, float]:
    """Win-rates and consistency of a judge that prefers the answer shown first by these log-odds, on 2,000 pairs."""
    rng = np.random.default_rng([seed, 8])
    first = (rng.random(2000) < sigmoid(np.array(bias))).astype(np.float64)
    second = (rng.random(2000) < sigmoid(np.array(-bias))).astype(np.float64)
    judged = win_rate(first, second)
    assert judged.orders is not None
    return {
        "win-rate from one order": win_rate(first).rate.value,
        "win-rate from both orders": judged.rate.value,
        "consistency": judged.orders.consistency.value,
    }


PAPER = Paper(
    name="zheng_2023",
    title="Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena",
    authors="Zheng et al. 2023",
    url="https://arxiv.org/abs/2306.05685",
    claims=(
        Claim(
            name="both-orders",
            words="Asking a judge in both orders, and counting a win only if it wins twice, removes position bias.",
            source="section 3.4 and table 2",
            expected=(
                above("win-rate from one order", 0.65, "derived"),
                near("win-rate from both orders", 0.5, 0.02, "derived"),
                # 2 sigma(b) sigma(-b), b = 0.8
                near("consistency", 0.4279, 0.02, "derived"),
            ),
            measured_by=Sampled(both_orders),
            deviations=("Paper: GPT-4, GPT-3.5 and Claude-v1. Here: a simulated judge with a planted bias.",),
            note="It is exact at equal quality. At unequal quality, disagreements count as ties, which moves the "
            "win-rate towards 1/2.",
        ),
        Claim(
            name="gpt-4-consistency",
            words="GPT-4 gives the same verdict in both orders for 65 % of pairs.",
            source="table 2",
            expected=(near("consistency in %", 65.0, 3.0, "printed"),),
            measured_by=None,
            scale="full",
        ),
    ),
)
