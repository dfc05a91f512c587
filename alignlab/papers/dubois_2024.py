"""Length-controlled AlpacaEval: Dubois et al. 2024."""

from __future__ import annotations

import numpy as np

from alignlab.papers.claim import Claim, Paper, Sampled, above, near
from alignlab.papers.tabular import sigmoid
from alignlab.statistics.length_control import length_controlled


def scores(seed: int, quality: float, mean: float = 7.3) -> dict[str, float]:
    """The raw and the controlled win-rate of a model, by a judge that likes length (weight 1).

    mean: of the logarithm of the model's lengths; the baseline's is 7.1, so by default the model is more verbose.
    """
    rng = np.random.default_rng([seed, 7])
    own, baseline = np.exp(rng.normal((mean, 7.1), 0.4, size=(805, 2))).T
    longer = own - baseline
    wins = rng.random(805) < sigmoid(quality + np.tanh(longer / longer.std(ddof=1)))
    found = length_controlled(wins.astype(np.float64), own, baseline)
    return {"raw": found.raw, "controlled": found.rate.value}


def removes_length(seed: int) -> dict[str, float]:
    """Equal quality, and log-odds of 0.3 in favour of the model."""
    equal, better = scores(seed, 0.0), scores(seed + 1000, 0.3)
    return {
        "raw win-rate at equal quality": equal["raw"],
        "controlled win-rate at equal quality": equal["controlled"],
        "controlled win-rate at log-odds 0.3": better["controlled"],
    }


PAPER = Paper(
    name="dubois_2024",
    title="Length-Controlled AlpacaEval: A Simple Way to Debias Automatic Evaluators",
    authors="Dubois et al. 2024",
    url="https://arxiv.org/abs/2404.04475",
    claims=(
        Claim(
            name="removes-length",
            words="The length-controlled win-rate is what the win-rate would be for answers of equal length.",
            source="the regression model",
            expected=(
                above("raw win-rate at equal quality", 0.53, "derived"),
                near("controlled win-rate at equal quality", 0.5, 0.015, "derived"),
                # sigma(0.3)
                near("controlled win-rate at log-odds 0.3", 0.5744, 0.015, "derived"),
            ),
            measured_by=Sampled(removes_length, seeds=40),
            deviations=(
                "Paper: GPT-4 as judge of 805 prompts. Here: 805 simulated verdicts with a planted effect of length.",
                "Paper: an L1 penalty with cross-validation. Here: a small ridge penalty.",
            ),
        ),
        Claim(
            name="arena-correlation",
            words="Length control raises the rank correlation with Chatbot Arena from .94 to .98.",
            source="table 1",
            expected=(near("Spearman correlation", 0.98, 0.01, "printed-via-notes"),),
            measured_by=None,
            scale="full",
        ),
    ),
)
