"""Numbers of a paper's figures and tables, each with its provenance, read from `figures/<paper>.csv`.

figure:     its place in the paper.
quantity:   what is measured. Two sources of the same quantity can contradict each other.
series, x:  the line and the place on the horizontal axis: a number or a name.
provenance: one of SOURCES.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alignlab.papers.claim import PROVENANCES
from alignlab.reports.drawing import Series, Style

_FOLDER = Path(__file__).parent / "figures"

# Further sources of points of figures:
#   digitised-here: measured in the figure for this project
#   eye-read-here:  read from the figure by eye for this project
SOURCES = (*PROVENANCES, "digitised-here", "eye-read-here")
# Points from these sources are drawn with open marks.
_INEXACT = ("eye-read-third-party", "eye-read-here", "digitised-here", "notes")


@dataclass(frozen=True)
class Point:
    """One row of the file."""

    figure: str
    quantity: str
    series: str
    x: float | str
    y: float
    provenance: str


@cache
def points_of(paper: str) -> tuple[Point, ...]:
    """All points of a paper; empty if it has no file."""
    file = _FOLDER / f"{paper}.csv"
    if not file.is_file():
        return ()
    with file.open(encoding="utf-8", newline="") as rows:
        return tuple(
            Point(r["figure"], r["quantity"], r["series"], _number(r["x"]), float(r["y"]), r["provenance"])
            for r in csv.DictReader(rows)
        )


def series_of(points: Sequence[Point], *, style: Style = "joined") -> tuple[Series, ...]:
    """One series for each line. Lines with a point that was not printed or derived have open marks."""
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.series, []).append(point)
    return tuple(
        Series(
            name, [p.x for p in own], [p.y for p in own], style=style, open=any(p.provenance in _INEXACT for p in own)
        )
        for name, own in found.items()
    )


def contradictions(points: Sequence[Point]) -> Iterator[str]:
    """A sentence for each value to which two sources give different numbers."""
    found: dict[tuple[str, str, float | str], list[Point]] = {}
    for point in points:
        found.setdefault((point.quantity, point.series, point.x), []).append(point)
    for (quantity, series, x), same in found.items():
        if len({point.y for point in same}) > 1:
            values = ", ".join(f"{p.y:g} ({p.figure}, {p.provenance})" for p in same)
            at = x if isinstance(x, str) else f"{x:g}"
            yield f"Sources differ on the {quantity} of {series} at {at}: {values}."


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
