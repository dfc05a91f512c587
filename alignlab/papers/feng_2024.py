"""The gradient field of DPO: Feng et al. 2024."""

from __future__ import annotations

import torch

from alignlab.objectives.dpo import DPO
from alignlab.papers.claim import Claim, Exact, Paper, below, near
from alignlab.papers.tabular import Answers, tensor


def _gradients(beta: float, better: float, worse: float) -> tuple[float, float]:
    """DPO's gradient in the ratios x1 = pi/pi_ref of the preferred answer and x2 of the other."""
    answers = Answers(torch.log(tensor(0.5, 0.5)).numpy())
    ratios = tensor(better, worse).requires_grad_()
    policy = ratios.log() + answers.prior
    DPO(beta)(answers.pairs(policy, torch.tensor([0]), torch.tensor([1]))).sum().backward()
    assert ratios.grad is not None
    return float(ratios.grad[0]), float(ratios.grad[1])


def gradient_field() -> dict[str, float]:
    """The ratio of the two gradients at x = (.8, .3), and the largest error of the paper's formulas on a grid."""
    worst = 0.0
    for beta in (0.1, 0.5, 1.0):
        for x1 in (0.2, 0.8, 1.5):
            for x2 in (0.05, 0.3, 1.2):
                total = x1**beta + x2**beta
                formula = -beta * x2**beta / (x1 * total), beta * x2 ** (beta - 1) / total
                found = _gradients(beta, x1, x2)
                worst = max(worst, *(abs(a - b) for a, b in zip(found, formula, strict=True)))
    better, worse = _gradients(0.1, 0.8, 0.3)
    return {"largest error": worst, "ratio at (0.8, 0.3)": abs(better / worse)}


PAPER = Paper(
    name="feng_2024",
    title="Towards Analyzing and Understanding the Limitations of DPO: A Theoretical Perspective",
    authors="Feng et al. 2024",
    url="https://arxiv.org/abs/2404.04626",
    claims=(
        Claim(
            name="gradient-field",
            words="x1 and x2 are pi/pi_ref of the preferred and the dispreferred answer. DPO's gradient in x1 is "
            "x2 / x1 times as large as its gradient in x2: DPO lowers the dispreferred answer faster than it raises "
            "the preferred one.",
            source="the partial derivatives of the loss, and their ratio",
            expected=(
                below("largest error", 1e-9, "derived"),
                near("ratio at (0.8, 0.3)", 0.375, 1e-9, "derived"),
            ),
            measured_by=Exact(gradient_field),
        ),
    ),
)
