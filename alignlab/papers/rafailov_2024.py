"""Over-optimisation of direct alignment: Rafailov et al. 2024."""

from __future__ import annotations

import math

import numpy as np
import torch

from alignlab.objectives.dpo import DPO
from alignlab.objectives.hinge import Hinge
from alignlab.objectives.ipo import IPO
from alignlab.papers.claim import Claim, Exact, Paper, below, near
from alignlab.papers.tabular import Answers, tensor


def third_action() -> dict[str, float]:
    """The loss of a pair and its opposite with all probability on the two actions, and with all of it on a third."""
    answers = Answers(np.log(np.full(3, 1 / 3)))
    table = np.zeros((3, 3))
    table[0, 1] = table[1, 0] = 0.5
    eps = 1e-300
    policies = [torch.log(tensor(*p)) for p in ((0.5, 0.5, eps), (eps, eps, 1.0))]
    found = {}
    for name, objective in (("DPO", DPO(0.1)), ("IPO", IPO(0.1)), ("hinge", Hinge(0.1))):
        inside, outside = (float(answers.expected_loss(objective, table)(policy)) for policy in policies)
        found[f"{name}: loss outside minus loss inside"] = abs(outside - inside)
        found |= {"DPO's loss inside": inside} if "DPO's loss inside" not in found else {}
    return found


PAPER = Paper(
    name="rafailov_2024",
    title="Scaling Laws for Reward Model Overoptimization in Direct Alignment Algorithms",
    authors="Rafailov et al. 2024",
    url="https://arxiv.org/abs/2406.02900",
    claims=(
        Claim(
            name="third-action",
            words="If two actions have beaten each other, moving all probability to a third, unseen action costs "
            "nothing: the losses can't tell the two policies apart.",
            source="the three-action example",
            expected=(
                *(
                    below(f"{name}: loss outside minus loss inside", 1e-12, "derived")
                    for name in ("DPO", "IPO", "hinge")
                ),
                near("DPO's loss inside", math.log(2), 1e-12, "derived"),
            ),
            measured_by=Exact(third_action),
            deviations=("Probabilities of 0 are 1e-300 here.",),
        ),
        Claim(
            name="figure-1",
            words="Win-rates of DPO, IPO and SLiC rise and then fall with the square root of the KL.",
            source="figure 1; d (alpha - beta log d) has half the error of a quadratic",
            expected=(below("error of the law over that of a quadratic", 0.75, "printed-via-notes"),),
            measured_by=None,
            scale="full",
        ),
    ),
)
