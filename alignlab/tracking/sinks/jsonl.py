"""Writes `metrics.jsonl`, and tables beside it: one JSON object per row, in the order of logging."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil

from alignlab.integrity import write_text
from alignlab.spelling import counted
from alignlab.tracking.sinks.base import Ending, Sink

log = logging.getLogger(__name__)

STEP = "train/global_step"


class JsonlSink:
    """Appends rows to a file. Each row is flushed, so that a killed run loses no logged row."""

    anew = False

    def __init__(self, file: Path, *, resume_at: int, step: str = STEP) -> None:
        """Open the file, and drop the rows after step `resume_at`, because a resumed run logs them again.

        resume_at: step at which the run resumes; 0 drops all rows.
        step:      key of the step in a row.
        """
        kept = [row for row in read_rows(file) if row.get(step, 0) <= resume_at] if resume_at else []
        write_text(file, "".join(json.dumps(row) + "\n" for row in kept))
        self._handle = file.open("a", encoding="utf-8")
        self._file, self._resume_at = file, resume_at
        self._tables: dict[str, JsonlSink] = {}

    def log(self, row: Mapping[str, float]) -> None:
        self._handle.write(json.dumps(dict(row)) + "\n")
        self._handle.flush()

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], *, private: bool = True) -> None:
        """Append the rows to `<name>.jsonl` beside the metrics."""
        if name not in self._tables:
            file = self._file.with_name(f"{name}.jsonl")
            self._tables[name] = JsonlSink(file, resume_at=self._resume_at, step="step")
        for row in rows:
            self._tables[name].log(row)

    def figures(self, files: Sequence[Path]) -> None:
        """Do nothing: the figures are files of the run directory."""

    def finish(self, summary: Mapping[str, Any], *, ending: Ending) -> None:
        self._handle.close()
        for sink in self._tables.values():
            sink.finish(summary, ending=ending)


def log_again(sink: Sink, directory: Path) -> None:
    """Log what a run has logged before: its metrics, its completions and its figures, in their order.

    directory: the run directory.
    """
    for row in read_rows(directory / "metrics.jsonl"):
        sink.log(row)
    for _, rows in groupby(read_rows(directory / "completions.jsonl"), key=lambda row: row.get("step", 0)):
        sink.table("completions", list(rows))
    if drawn := figures_in(directory):
        sink.figures(drawn)


def figures_in(directory: Path) -> list[Path]:
    """The figures of a run or of a sweep, without empty files, which a full disk may leave."""
    return sorted(file for file in directory.glob("figures/*.png") if file.stat().st_size)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """All complete rows of a file; none if there is no file. A last line that a crash cut off is left out.

    Damaged rows are left out too, and a warning states how many. A row whose step is no number is damaged.
    Raises OSError if the file is larger than the memory that is free.
    """
    if not file.is_file():
        return []
    if file.stat().st_size > psutil.virtual_memory().available:
        raise OSError(errno.EFBIG, "is larger than the memory that is free", str(file))
    lines = [line for line in file.read_bytes().split(b"\n")[:-1] if line]
    rows = [row for row in map(_row, lines) if row is not None]
    if bad := len(lines) - len(rows):
        log.warning("%s is damaged: %d of %s can't be read and are left out", file, bad, counted(len(lines), "row"))
    return rows


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line, parse_int=_integer)
    except (ValueError, RecursionError):
        return None
    steps = (found.get(STEP, 0), found.get("step", 0)) if isinstance(found, dict) else ("",)
    return found if all(isinstance(step, int | float) for step in steps) else None


def _integer(text: str) -> float:
    """A whole number. One that is larger than any number of a run becomes infinite, so that it can't stop a reader."""
    return int(text) if len(text) < 18 else float(text)
