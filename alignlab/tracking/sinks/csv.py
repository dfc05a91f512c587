"""One CSV file per run with all metrics: `metrics.csv` in the run directory, one row per logged step."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignlab.inert import formula_free
from alignlab.integrity import new_file
from alignlab.tracking.sinks.base import Ending, RunIdentity, Sink, Tracking
from alignlab.tracking.sinks.jsonl import STEP, read_rows


class CsvSink:
    """Writes the file when the run ends, from the rows in `metrics.jsonl`: only then are all columns known."""

    anew = True

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def log(self, row: Mapping[str, float]) -> None:
        """Do nothing: `metrics.jsonl` has the row."""

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], *, private: bool = True) -> None:
        """Do nothing: `<name>.jsonl` has the rows."""

    def figures(self, files: Sequence[Path]) -> None:
        """Do nothing: the figures are files of the run directory."""

    def finish(self, summary: Mapping[str, Any], *, ending: Ending) -> None:
        rows = read_rows(self._directory / "metrics.jsonl")
        columns = list(dict.fromkeys([STEP, *(name for row in rows for name in row)]))
        with (
            new_file(self._directory / "metrics.csv") as scratch,
            scratch.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(map(formula_free, columns))
            writer.writerows([formula_free(row.get(name, "")) for name in columns] for row in rows)


@dataclass(kw_only=True)
class Csv(Tracking):
    """CSV: `outputs/runs/<id>/metrics.csv`, written when a run ends. A metric that a row lacks is an empty cell."""

    def open(self, run: RunIdentity) -> Sink:
        return CsvSink(run.directory)
