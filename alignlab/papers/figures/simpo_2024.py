"""Figure of Meng et al. 2024: the table of ten objectives on four settings."""

from __future__ import annotations

from collections.abc import Sequence

from alignlab.papers.figure import PaperFigure, Rows
from alignlab.papers.printed import Point, series_of
from alignlab.papers.simpo_2024 import SETTINGS
from alignlab.reports.drawing import Drawing, Panel


def _table(points: Sequence[Point], rows: Rows) -> Drawing:
    quantities = dict.fromkeys(point.quantity for point in points)
    panels = (Panel(name, series_of([p for p in points if p.quantity == name], style="points")) for name in quantities)
    return Drawing(
        "objectives",
        "Ten objectives on four settings",
        "",
        "points",
        tuple((panel, None) for panel in panels),
        "AlpacaEval 2 (length-controlled win-rate and win-rate) and Arena-Hard, version 0.1 of the authors' table. The "
        "models have 7 and 8 billion parameters, so nothing is measured here.",
        categories=tuple(dict.fromkeys(str(point.x) for point in points)),
    )


FIGURES = (
    PaperFigure(
        tuple(f"table-{setting.lower()}" for setting in SETTINGS),
        tuple(f"table, {setting}" for setting in SETTINGS),
        _table,
    ),
)
