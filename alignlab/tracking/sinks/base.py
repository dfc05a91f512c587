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
    """Receives rows of metrics during a run, and a summary at its end."""

    def log(self, row: Mapping[str, float]) -> None:
        """Log one row of metrics. It contains `train/global_step`."""

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log rows of text and numbers for people to read. Each row contains `step`: the number of updates so far."""

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
