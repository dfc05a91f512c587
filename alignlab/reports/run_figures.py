"""Figures of one run, for trackers that show images: its curves, and in the lab its reward against its KL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignlab.errors import DamagedError
from alignlab.inert import one_line
from alignlab.integrity import read_record
from alignlab.reports.curves import CURVES
from alignlab.reports.figures import run_curves, run_path, save
from alignlab.runs.directory import RunDir
from alignlab.tracking.sinks.jsonl import read_rows


def draw_run(run: RunDir, name: str) -> list[Path]:
    """Draw the figures of a run from its files. Returns the written files, which are in its folder `figures`.

    `curves.png` has the curves with at least two values. `frontier.png` is drawn for runs with exact metrics.

    name: of the run, for the titles.
    """
    rows = read_rows(run.metrics)
    figures = {}
    if curves := {metric: title for metric, title in CURVES.items() if len(_having(rows, metric)) > 1}:
        figures["curves"] = run_curves(rows, curves)
    exact = _having(rows, "exact/kl", "exact/reward")
    if exact and (frontier := _frontier(run)):
        figures["frontier"] = run_path(frontier, exact)
    for figure in figures.values():
        figure.suptitle(one_line(name, 90))
    return [save(figure, run.figures / f"{kind}.png", "screen") for kind, figure in figures.items()]


def _having(rows: Sequence[Mapping[str, Any]], *metrics: str) -> list[Mapping[str, Any]]:
    """The rows in which all of these metrics are finite numbers."""
    return [row for row in rows if all(math.isfinite(row.get(metric, math.nan)) for metric in metrics)]


def _frontier(run: RunDir) -> Mapping[str, Sequence[float]] | None:
    """The exact frontier of the run's reference. None if the run has none, or if its file is damaged."""
    try:
        return read_record(run.frontier) if run.frontier.is_file() else None
    except DamagedError:
        return None
