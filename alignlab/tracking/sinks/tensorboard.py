"""TensorBoard: event files in `<run directory>/tensorboard`. `tensorboard --logdir outputs/runs` shows all runs."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignlab.checks import installed
from alignlab.errors import Problem
from alignlab.tracking.sinks.base import Ending, RunIdentity, Sink, TrackingWithFigures
from alignlab.tracking.sinks.jsonl import STEP, log_again


class TensorBoardSink:
    """Event files of one run. A resumed run writes all rows again, so that its curve is whole."""

    anew = True

    def __init__(self, config: TensorBoard, run: RunIdentity) -> None:
        from tensorboardX import SummaryWriter

        self._with_figures = config.figures
        folder = run.directory / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        self._step = 0
        text = f"{run.name or run.id}\n\n```json\n{json.dumps(dict(run.config), indent=2, default=str)}\n```"
        self._writer.add_text("config", text, 0)
        log_again(self, run.directory)

    def log(self, row: Mapping[str, float]) -> None:
        self._step = int(row.get(STEP, self._step))
        for name, value in row.items():
            if name != STEP:
                self._writer.add_scalar(name, value, self._step)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], *, private: bool = True) -> None:
        """Log each row as text. Marks of Markdown and HTML in it stay text, because it is indented as code."""
        for i, row in enumerate(rows):
            text = "\n".join(f"{column}: {value}" for column, value in row.items())
            code = "".join(f"    {line}\n" for line in text.splitlines())
            self._writer.add_text(f"{name}/{i}", code, int(row.get("step", self._step)))

    def figures(self, files: Sequence[Path]) -> None:
        import numpy as np
        from PIL import Image

        for file in files if self._with_figures else ():
            with Image.open(file) as image:
                pixels = np.asarray(image.convert("RGB"))
            self._writer.add_image(f"figures/{file.stem}", pixels, self._step, dataformats="HWC")

    def finish(self, summary: Mapping[str, Any], *, ending: Ending) -> None:
        for name, value in summary.items():
            if name != STEP and isinstance(value, int | float) and math.isfinite(value):
                self._writer.add_scalar(f"summary/{name}", value, self._step)
        self._writer.add_text("status", ending, self._step)
        self._writer.close()


@dataclass(kw_only=True)
class TensorBoard(TrackingWithFigures):
    """TensorBoard's event files, in the run directory. To view them, install tensorboard.

    figures: log the figures of a run, or of a sweep, as images.
    """

    def problems(self) -> Iterator[Problem]:
        yield from installed("", None, "tensorboardX", extra="sinks")

    def open(self, run: RunIdentity) -> Sink:
        return TensorBoardSink(self, run)
