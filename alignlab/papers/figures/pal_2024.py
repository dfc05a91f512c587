"""Figure of Pal et al. 2024: log-probability of the tokens after the first difference of a pair."""

from __future__ import annotations

from alignlab.papers.figure import PaperFigure, printed_only

FIGURES = (
    PaperFigure(
        ("figure-4",),
        ("figure 4",),
        printed_only(
            "metamath", "Figure 4: tokens after the difference, MetaMath", "", "nats per token", style="points"
        ),
    ),
)
