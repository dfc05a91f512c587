"""Dr. GRPO: Liu et al. 2025."""

from __future__ import annotations

import math
from functools import partial

import torch

from alignlab.objectives import advantages
from alignlab.papers.claim import Claim, Exact, Paper, above, near
from alignlab.papers.groups_of_answers import expected_gradient, true_gradient


def difficulty() -> dict[str, float]:
    """The expected gradient over the true one, for a question solved with probability 0.1, relative to one with 0.5."""
    found = {}
    for name, by_deviation in (("GRPO", True), ("Dr. GRPO", False)):
        scales = []
        for p in (0.1, 0.5):
            logits = torch.tensor([math.log(p), math.log(1 - p)], dtype=torch.float64)
            solved = torch.tensor([1.0, 0.0], dtype=torch.float64)
            normalised = partial(advantages.group_normalised, by_deviation=by_deviation)
            group = expected_gradient(logits, solved, 8, normalised)
            scales.append(float(group[0] / true_gradient(logits, solved)[0]))
        found[f"weight of a hard question under {name}"] = scales[0] / scales[1]
    return found


PAPER = Paper(
    name="dr_grpo_2025",
    title="Understanding R1-Zero-Like Training: A Critical Perspective",
    authors="Liu et al. 2025",
    url="https://arxiv.org/abs/2503.20783",
    claims=(
        Claim(
            name="question-difficulty",
            words="Dividing by the group's standard deviation gives hard and easy questions more weight; without the "
            "division all questions count the same.",
            source="question-level difficulty bias",
            expected=(
                above("weight of a hard question under GRPO", 1.1, "derived"),
                near("weight of a hard question under Dr. GRPO", 1.0, 1e-9, "derived"),
            ),
            measured_by=Exact(difficulty),
            deviations=("Paper: mathematics with language models. Here: right or wrong answers, all groups of 8.",),
        ),
    ),
)
