"""Figure of Huang et al. 2024: accuracy of reward models of three sizes."""

from __future__ import annotations

from alignlab.papers.figure import PaperFigure, printed_only

FIGURES = (
    PaperFigure(
        ("reward-model-accuracy",),
        ("accuracy of reward models",),
        printed_only(
            "reward-model-accuracy",
            "Accuracy of reward models",
            "parameters (billions)",
            "validation accuracy",
            caption="Accuracies of DPO policies used as reward models are read from a figure (open marks).",
        ),
    ),
)
