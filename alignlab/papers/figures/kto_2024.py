"""Figure of KTO: benchmarks of Zephyr-SFT after DPO and KTO."""

from __future__ import annotations

from alignlab.papers.figure import PaperFigure, printed_only

FIGURES = (
    PaperFigure(
        ("table-2-zephyr",),
        ("table 2 of the first version", "table 2 of the current version"),
        printed_only("zephyr", "Table 2: benchmarks of Zephyr-SFT on UltraFeedback", "", "score", style="points"),
        also=("equation 8 of the first version", "equation 9 of the current version"),
    ),
)
