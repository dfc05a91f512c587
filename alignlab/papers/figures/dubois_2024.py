"""Figures of Dubois et al. 2024: win-rates of answers of three lengths, and correlation with the Arena."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from alignlab.papers.dubois_2024 import scores
from alignlab.papers.figure import PaperFigure, Rows, is_measured, printed_only
from alignlab.papers.printed import Point, series_of
from alignlab.reports.drawing import Drawing, Panel, Series
from alignlab.statistics.intervals import mean_interval

# Mean of the logarithm of the answers' lengths; the baseline's is 7.1.
_LENGTHS = {"concise": 6.9, "standard": 7.1, "verbose": 7.3}
_SEEDS = 20


def _verbosity(points: Sequence[Point], rows: Rows) -> Drawing:
    ours = Panel("simulated verdicts, equal quality", _measured()) if is_measured(rows, "removes-length") else None
    return Drawing(
        "verbosity",
        "Figure 3: win-rate of a model that is asked to be concise or verbose",
        "",
        "win-rate in %",
        ((Panel("gpt4_1106_preview", series_of(points)), ours),),
        "Right: 805 verdicts for each of 20 seeds by a judge that likes length. The quality is the same at all "
        "lengths, so the truth is 50 %.",
        categories=tuple(_LENGTHS),
    )


@cache
def _measured() -> tuple[Series, ...]:
    found = []
    for name, key in (("raw", "raw"), ("length-controlled", "controlled")):
        means = [
            mean_interval([100 * scores(seed, 0.0, mean)[key] for seed in range(_SEEDS)]) for mean in _LENGTHS.values()
        ]
        ends = [m.low for m in means], [m.high for m in means]
        found.append(Series(name, tuple(_LENGTHS), [m.value for m in means], *ends))
    return (*found, Series("truth", tuple(_LENGTHS), [50.0] * len(_LENGTHS), style="exact"))


FIGURES = (
    PaperFigure(("removes-length",), ("figure 3",), _verbosity, also=("table 1", "README of the authors' repository")),
    PaperFigure(
        ("arena-correlation",),
        ("table 1",),
        lambda points, rows: printed_only(
            "arena-correlation",
            "Table 1: rank correlation with Chatbot Arena",
            "",
            "Spearman correlation",
            style="points",
        )([p for p in points if p.x == "correlation"], rows),
    ),
)
