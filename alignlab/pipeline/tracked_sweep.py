"""Sends the table and the figures of a sweep to trackers, as a run of their own beside the runs of its points."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from alignlab.errors import TrackingError
from alignlab.reports.tables import rows_of_csv
from alignlab.runs.sweep_record import read_sweep_record
from alignlab.tracking.sinks.base import RunIdentity, Tracking, TrackingWithFigures
from alignlab.tracking.sinks.jsonl import figures_in

log = logging.getLogger(__name__)

_TABLES = ("table", "settings")


def track_sweep(directory: Path, tracking: Mapping[str, Tracking]) -> None:
    """Log the tables and the figures of a sweep to its trackers that show images.

    The run is called `sweep-<name of the sweep>` and has the group of the points. Its files are in `directory`, the
    folder of the sweep. A tracker that can't be reached leaves a warning: the sweep itself is on disk.
    """
    sweep = read_sweep_record(directory)
    name = sweep["name"]
    identity = RunIdentity(
        id="sweep-" + re.sub(r"[^\w.-]+", "_", name),
        directory=directory,
        group=name,
        job_type="sweep",
        name=f"sweep {name}",
        tags=["sweep"],
        notes=sweep["question"],
        config={"sweep/id": name, "sweep/axes": sweep["axes"]},
    )
    figures = figures_in(directory)
    for tracker in tracking.values():
        if not (isinstance(tracker, TrackingWithFigures) and tracker.figures):
            continue
        try:
            sink = tracker.open(identity)
        except TrackingError as error:
            log.warning("%s: its table and figures are not tracked: %s", name, error)
            continue
        for table in _TABLES:
            if rows := rows_of_csv(directory / f"{table}.csv"):
                sink.table(table, rows, private=False)
        if figures and not sink.anew:  # a new one has logged the files in the folder `figures` when it was opened
            sink.figures(figures)
        sink.finish({}, ending="done")
