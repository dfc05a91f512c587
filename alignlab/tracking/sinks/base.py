"""Base of trackers. A tracking config is a dataclass that opens a sink for a run; the sink receives its metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from alignlab.checks import Checked

# How a run ended, for `Sink.finish`: done, failed, diverged or interrupted.
Ending = str


@dataclass(frozen=True)
class RunIdentity:
    """The data about a run that a tracker needs.

    id:        the run's id.
    directory: the run directory. Its `metrics.jsonl` holds the rows that were logged so far.
    group:     name of the sweep, or None.
    job_type:  kind of the run: its objective.
    name:      a name for people, such as `dpo beta=0.1 seed=1`.
    tags:      words to filter runs by.
    notes:     a sentence about the run.
    config:    the run's config.
    """

    id: str
    directory: Path
    group: str | None
    job_type: str
    name: str = ""
    tags: Sequence[str] = ()
    notes: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)


class Sink(Protocol):
    """Receives rows of metrics during a run, and a summary at its end.

    anew: whether the tracker holds nothing of the run but what this sink logs. Then the sink has logged the metrics,
          completions and figures of earlier attempts again when it was opened (`log_again`).
    """

    anew: bool

    def log(self, row: Mapping[str, float]) -> None:
        """Log one row of metrics. It contains `train/global_step`."""

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], *, private: bool = True) -> None:
        """Log rows of text and numbers for people to read. All rows have the same columns.

        Rows of a run contain `step`: the number of updates so far.

        private: whether the rows hold prompts or answers, which some trackers must not send.
        """

    def figures(self, files: Sequence[Path]) -> None:
        """Log images (PNG). The name of a figure is that of its file without the suffix."""

    def finish(self, summary: Mapping[str, Any], *, ending: Ending) -> None:
        """End the run. Nothing is logged after this."""


@dataclass(kw_only=True)
class Tracking(Checked, ABC):
    """Base of tracking configs. Files in the run directory are always written; a tracker mirrors them."""

    @abstractmethod
    def open(self, run: RunIdentity) -> Sink:
        """Open a sink for this run. This never prompts on the terminal.

        Raises TrackingError if the tracker can't be used as configured.
        """


@dataclass(kw_only=True)
class TrackingWithFigures(Tracking):
    """Base of the configs of trackers that show images.

    figures: log figures as images. Those of a run (its curves, and in the lab its reward against its KL) are drawn
             when it ends. The points of a sweep have none of their own: the figures and the tables of the sweep are
             logged as a run beside them.
    """

    figures: bool = True
