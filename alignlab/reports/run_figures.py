"""Figures of one run, for trackers that show images: its curves, and in the lab its reward against its KL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignlab.errors import DamagedError
from alignlab.integrity import read_record
from alignlab.reports.curves import CURVES
from alignlab.reports.plots import curves_figure, path_figure
from alignlab.runs.directory import RunDir
from alignlab.tracking.sinks.jsonl import read_rows


def draw_run(run: RunDir, name: str) -> list[Path]:
    """Draw the figures of a run from its files. Returns the written files, which are in its folder `figures`.

    `curves.png` has the curves with at least two values. `frontier.png` is drawn for runs with exact metrics.

    name: of the run, for the title and the legend.
    """
    rows = read_rows(run.metrics)
    curves = [(metric, title) for metric, title in CURVES.items() if len(_having(rows, metric)) > 1]
    drawn = []
    if curves:
        drawn.append(run.figures / "curves.png")
        curves_figure(drawn[-1], [(name, rows)], name, curves)
    exact = _having(rows, "exact/kl", "exact/reward")
    if exact and (frontier := _frontier(run)):
        drawn.append(run.figures / "frontier.png")
        path_figure(drawn[-1], frontier, exact)
    return drawn


def _having(rows: Sequence[Mapping[str, Any]], *metrics: str) -> list[Mapping[str, Any]]:
    """The rows in which all of these metrics are finite numbers."""
    return [row for row in rows if all(math.isfinite(row.get(metric, math.nan)) for metric in metrics)]


def _frontier(run: RunDir) -> Mapping[str, Sequence[float]] | None:
    """The exact frontier of the run's reference. None if the run has none, or if its file is damaged."""
    try:
        return read_record(run.frontier) if run.frontier.is_file() else None
    except DamagedError:
        return None
