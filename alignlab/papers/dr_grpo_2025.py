"""Dr. GRPO: Liu et al. 2025."""

from __future__ import annotations

import math
from functools import partial

import torch

from alignlab.objectives import advantages
from alignlab.papers.claim import Claim, Exact, Paper, above, near
from alignlab.papers.groups_of_answers import expected_gradient, true_gradient


def difficulty() -> dict[str, float]:
    """The expected gradient over the true one, for questions solved with 0.1 and with 0.9, relative to one with 0.5."""
    found = {}
    for name, by_deviation in (("GRPO", True), ("Dr. GRPO", False)):
        scales = []
        for p in (0.1, 0.5, 0.9):
            logits = torch.tensor([math.log(p), math.log(1 - p)], dtype=torch.float64)
            solved = torch.tensor([1.0, 0.0], dtype=torch.float64)
            normalised = partial(advantages.group_normalised, by_deviation=by_deviation)
            group = expected_gradient(logits, solved, 8, normalised)
            scales.append(float(group[0] / true_gradient(logits, solved)[0]))
        hard, middle, easy = scales
        found[f"weight of a hard question under {name}"] = hard / middle
        found[f"weight of an easy question under {name}"] = easy / middle
    return found


_KINDS = ("a hard", "an easy")

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
                *(above(f"weight of {kind} question under GRPO", 1.1, "derived") for kind in _KINDS),
                *(near(f"weight of {kind} question under Dr. GRPO", 1.0, 1e-9, "derived") for kind in _KINDS),
            ),
            measured_by=Exact(difficulty),
            version=2,
            deviations=("Paper: mathematics with language models. Here: right or wrong answers, all groups of 8.",),
        ),
    ),
)
