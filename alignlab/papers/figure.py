"""Figures of papers: what a paper's numbers and our measurements look like on the same axes.

`figures/<paper>.py` has the figures of a paper, as `FIGURES`, and `figures/<paper>.csv` the paper's numbers. A figure
of a trained claim reads the curves of the claim's record (`Trained.curves`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from alignlab.papers.printed import Point, contradictions, points_of, series_of
from alignlab.papers.record import Row
from alignlab.reports.drawing import Drawing, Panel, Series, Style

# Claim -> its row.
Rows = Mapping[str, Row]


@dataclass(frozen=True)
class PaperFigure:
    """A figure of a paper beside ours.

    claims:  the claims that it belongs to. It stands under the first of them that is shown.
    sources: the figures and tables of the paper that are its left side: values of `figure` in the paper's file.
    draw:    (points of the sources, rows of the paper's claims) -> the figure. A claim without a finished record has
             nothing to draw.
    also:    further sources, whose numbers are listed and compared, but not drawn.
    """

    claims: tuple[str, ...]
    sources: tuple[str, ...]
    draw: Callable[[Sequence[Point], Rows], Drawing]
    also: tuple[str, ...] = ()

    def points(self, paper: str, *, also: bool = False) -> list[Point]:
        """The paper's numbers that the figure draws; with `also`, those of the further sources too."""
        wanted = (*self.sources, *self.also) if also else self.sources
        return [point for point in points_of(paper) if point.figure in wanted]

    def remarks(self, paper: str) -> list[str]:
        """Sentences on sources that contradict each other."""
        return list(contradictions(self.points(paper, also=True)))


def figures_of(paper: str) -> tuple[PaperFigure, ...]:
    """The figures of a paper; empty if it has none."""
    name = f"alignlab.papers.figures.{paper}"
    if find_spec(name) is None:
        return ()
    figures: tuple[PaperFigure, ...] = importlib.import_module(name).FIGURES
    return figures


def is_measured(rows: Rows, claim: str) -> bool:
    """Whether a claim has a finished record with the current expectation."""
    return claim in rows and rows[claim].decision.verdict != "not-run" and bool(rows[claim].record)


def measured(rows: Rows, claim: str) -> Mapping[str, Sequence[float]]:
    """The measured numbers of a claim: name -> one value for each seed; empty if there are none."""
    return rows[claim].record.get("measured", {}) if is_measured(rows, claim) else {}


def curve_of(rows: Rows, claim: str, name: str) -> Mapping[str, Any] | None:
    """A curve of a claim's record; None if it has none of this name."""
    found: Mapping[str, Any] | None = (
        rows[claim].record.get("curves", {}).get(name) if is_measured(rows, claim) else None
    )
    return found


def drawn_curve(curve: Mapping[str, Any], name: str) -> Series:
    """A curve of a record as a line with its band."""
    return Series(name, curve["x"], curve["y"], curve["low"], curve["high"], style="line")


def drawn_points(curve: Mapping[str, Any], name: str) -> Series:
    """Points of a record with their intervals, joined in their order."""
    ends = (curve.get("left", ()), curve.get("right", ()))
    return Series(name, curve["x"], curve["y"], curve["low"], curve["high"], "joined", False, *ends)


def printed_only(name: str, title: str, x: str, y: str, *, caption: str = "", style: Style = "joined") -> Any:
    """A `draw` for claims that are not measured here: the paper's side alone."""

    def draw(points: Sequence[Point], rows: Rows) -> Drawing:
        names = tuple(dict.fromkeys(str(p.x) for p in points if isinstance(p.x, str)))
        panel = Panel("", series_of(points, style=style))
        return Drawing(name, title, x, y, ((panel, None),), caption, categories=names)

    return draw
