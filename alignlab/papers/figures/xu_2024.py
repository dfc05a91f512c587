"""Figure of Xu et al. 2024: safety of policies trained on SafeRLHF."""

from __future__ import annotations

from alignlab.papers.figure import PaperFigure, printed_only

FIGURES = (
    PaperFigure(
        ("safe-rlhf",),
        ("SafeRLHF",),
        printed_only("safe-rlhf", "Safety on SafeRLHF", "", "safe answers in %", style="points"),
    ),
)
