"""A tracker that appends one line for each logged row to a text file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignlab.tracking.sinks.base import Ending, RunIdentity, Sink, Tracking


class LinesSink:
    """Writes a step and its loss, and how the run ended."""

    anew = False

    def __init__(self, file: Path, run: str) -> None:
        self._file, self._run = file, run

    def log(self, row: Mapping[str, float]) -> None:
        self._write(f"{row['train/global_step']} {row.get('train/loss', row.get('eval/loss'))}")

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], *, private: bool = True) -> None:
        """Do nothing: this tracker has no tables."""

    def figures(self, files: Sequence[Path]) -> None:
        """Do nothing: this tracker has no images."""

    def finish(self, summary: Mapping[str, Any], *, ending: Ending) -> None:
        self._write(ending)

    def _write(self, text: str) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(f"{self._run} {text}\n")


@dataclass(kw_only=True)
class Lines(Tracking):
    """A line for each logged row.

    file: name of the text file in the directory of a run.
    """

    file: str = "lines.txt"

    def open(self, run: RunIdentity) -> Sink:
        return LinesSink(run.directory / self.file, run.id)
