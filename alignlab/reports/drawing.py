"""Figures with two sides, such as a paper's numbers on the left and ours on the right, on the same axes.

They are plain values, so that a page can draw them with plotly and a file with matplotlib (`alignlab.reports.beside`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Style = Literal["line", "points", "joined", "exact"]


@dataclass(frozen=True)
class Series:
    """Points of one kind. Series with the same name have the same colour on both sides.

    x:         numbers, or the names of categories.
    low, high: ends of intervals, one for each point; empty if there are none.
    left, right: ends of intervals of x, if x is measured too.
    style:     line, points, joined (points with a line), or exact (a black dashed line: the known truth).
    open:      whether the marks are open: numbers that were read from a figure by eye.
    """

    name: str
    x: Sequence[float | str]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    style: Style = "joined"
    open: bool = False
    left: Sequence[float] = ()
    right: Sequence[float] = ()


@dataclass(frozen=True)
class Panel:
    """A pair of axes with a title."""

    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Drawing:
    """A figure with rows of two panels. All panels have the same axes.

    name:       for files and links: lower case, with hyphens.
    x, y:       titles of the axes.
    rows:       (left, right) panels; None where one side has nothing to show.
    categories: the order of the values of x, if they are names.
    """

    name: str
    title: str
    x: str
    y: str
    rows: tuple[tuple[Panel | None, Panel | None], ...]
    caption: str = ""
    log_x: bool = False
    categories: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The names of all series but exact ones, in order. Their places decide their colours."""
        return list(dict.fromkeys(series.name for series in self.series if series.style != "exact"))

    @property
    def series(self) -> Iterator[Series]:
        return (series for row in self.rows for panel in row if panel for series in panel.series)

    @property
    def y_range(self) -> tuple[float, float]:
        """The smallest and the largest value of y, ends of intervals included, with some room."""
        return _with_room([y for one in self.series for y in (*one.y, *one.low, *one.high)])

    @property
    def x_range(self) -> tuple[float, float] | None:
        """The same of x; None for categories and logarithmic axes."""
        if self.categories or self.log_x:
            return None
        return _with_room([float(x) for one in self.series for x in (*one.x, *one.left, *one.right)])

    def plain(self) -> dict[str, Any]:
        """The figure for the script of a page: JSON values."""
        panels = [
            {"row": row, "side": side, "title": panel.title if panel else "",
             "series": [_plain(series) for series in panel.series] if panel else []}
            for row, both in enumerate(self.rows)
            for side, panel in zip(("left", "right"), both, strict=True)
        ]  # fmt: skip
        return {
            "name": self.name, "x": self.x, "y": self.y, "names": self.names, "log_x": self.log_x,
            "x_range": self.x_range, "y_range": self.y_range, "categories": list(self.categories), "panels": panels,
        }  # fmt: skip


def _with_room(values: Sequence[float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:  # a figure whose claims were not measured, of a paper without numbers
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    room = 0.06 * ((high - low) or abs(high) or 1.0)
    return low - room, high + room


def _plain(series: Series) -> dict[str, Any]:
    def numbers(values: Sequence[Any]) -> list[Any]:
        return [_number(value) for value in values]

    return {
        "name": series.name, "style": series.style, "open": series.open, "x": numbers(series.x), "y": numbers(series.y),
        "low": numbers(series.low), "high": numbers(series.high), "left": numbers(series.left),
        "right": numbers(series.right),
    }  # fmt: skip


def _number(value: Any) -> Any:
    """A value for JSON: 6 digits, the name of a category, or None if it is not finite."""
    if isinstance(value, str):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
