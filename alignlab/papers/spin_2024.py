"""SPIN: Chen et al. 2024."""

from __future__ import annotations

import numpy as np

from alignlab.lab.frontier import kl, log_normalise
from alignlab.objectives.spin import SPIN
from alignlab.papers.claim import Claim, Exact, Paper, above, below
from alignlab.papers.tabular import Answers, Array


def _gradient(data: Array, policy: Array) -> Array:
    """[N] gradient of SPIN's expected loss with respect to the logits.

    y comes from the data, y' from the policy, which is also the reference.
    """
    answers = Answers(policy)
    loss = answers.expected_loss(SPIN(beta=0.1), np.exp(data)[:, None] * np.exp(policy))
    return answers.gradient(loss, policy)


def fixed_point() -> dict[str, float]:
    """The gradient where the policy is the data's distribution, elsewhere, and the KL over 50 iterations."""
    rng = np.random.default_rng(0)
    data, policy = (log_normalise(rng.normal(size=(1, 10)))[0] for _ in range(2))
    at_data, elsewhere = (float(np.abs(_gradient(data, p)).max()) for p in (data, policy))
    distances = [kl(data[None], policy[None])]
    for _ in range(50):
        policy = log_normalise((policy - 20 * _gradient(data, policy))[None])[0]
        distances.append(kl(data[None], policy[None]))
    return {
        "gradient at the data's distribution": at_data,
        "gradient elsewhere": elsewhere,
        "smallest fall of the KL in an iteration": float(-np.diff(distances).max()),
    }


PAPER = Paper(
    name="spin_2024",
    title="Self-Play Fine-Tuning Converts Weak Language Models to Strong Language Models",
    authors="Chen et al. 2024",
    url="https://arxiv.org/abs/2401.01335",
    claims=(
        Claim(
            name="fixed-point",
            words="SPIN stops exactly where the policy is the distribution of the data.",
            source="the theorem on the optimum",
            expected=(
                below("gradient at the data's distribution", 1e-12, "derived"),
                above("gradient elsewhere", 1e-3, "derived"),
                above("smallest fall of the KL in an iteration", 0.0, "derived"),
            ),
            measured_by=Exact(fixed_point),
            deviations=("Paper: language models. Here: 10 answers, the exact expectation, one step an iteration.",),
        ),
    ),
)
