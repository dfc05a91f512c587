"""Online feedback from a language model (OAIF): Guo et al. 2024."""

from __future__ import annotations

from alignlab.papers.claim import Claim, Paper, near

_HERE = (
    "In a world of 100 answers, the claims tajwar_2024 unlikely-optimum and tang_2024 equal-kl compare online with "
    "offline DPO at equal budgets and at equal KL.",
)

PAPER = Paper(
    name="guo_2024",
    title="Direct Language Model Alignment from Online AI Feedback",
    authors="Guo et al. 2024",
    url="https://arxiv.org/abs/2402.04792",
    claims=(
        Claim(
            name="tldr",
            words="On TL;DR, people prefer answers of online DPO to those of offline DPO in 63.74 % of cases.",
            source="human evaluation",
            expected=(near("win-rate of online DPO in %", 63.74, 5.0, "printed"),),
            measured_by=None,
            scale="full",
            deviations=_HERE,
        ),
        Claim(
            name="helpful",
            words="On helpfulness, people prefer answers of online DPO to those of offline DPO in 58.60 % of cases.",
            source="human evaluation",
            expected=(near("win-rate of online DPO in %", 58.60, 5.0, "printed"),),
            measured_by=None,
            scale="full",
            deviations=_HERE,
        ),
    ),
)
