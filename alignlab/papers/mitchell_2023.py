"""Conservative DPO: Mitchell 2023."""

from __future__ import annotations

import numpy as np

from alignlab.objectives.dpo import DPO
from alignlab.papers.claim import Claim, Exact, Paper, near
from alignlab.papers.tabular import Answers

_MARGINS = {0.1: 2.19722458, 0.2: 1.38629436, 0.3: 0.84729786, 0.4: 0.40546511}


def margins() -> dict[str, float]:
    """beta times the log-ratio margin at the minimum of the loss on one pair, beta = 0.5."""
    two, pair = Answers(np.log([0.4, 0.6])), np.array([[0.0, 1.0], [0.0, 0.0]])
    found = {}
    for share in _MARGINS:
        landed = two.minimum(two.expected_loss(DPO(0.5, label_smoothing=share), pair))
        ratio = landed - two.reference
        found[f"margin at epsilon {share:g}"] = 0.5 * float(ratio[0] - ratio[1])
    return found


PAPER = Paper(
    name="mitchell_2023",
    title="A note on DPO with noisy preferences & relationship to IPO",
    authors="Mitchell 2023",
    url="https://ericmitchell.ai/cdpo.pdf",
    claims=(
        Claim(
            name="margins",
            words="cDPO's loss is smallest where the implied preference probability is 1 - epsilon, so that margins "
            "stay finite.",
            source="equation 3 and the gradient below it",
            expected=tuple(near(f"margin at epsilon {e:g}", m, 1e-6, "derived") for e, m in _MARGINS.items()),
            measured_by=Exact(margins),
        ),
    ),
)
