"""Base of trackers. A tracking config is a dataclass that opens a sink for a run; the sink receives its metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from alignlab.checks import Checked


@dataclass(frozen=True)
class RunIdentity:
    """The data about a run that a tracker needs.

    id:        the run's id.
    directory: the run directory.
    group:     name of the sweep, or None.
    job_type:  kind of the run.
    config:    the run's config.
    """

    id: str
    directory: Path
    group: str | None
    job_type: str
    config: Mapping[str, Any] = field(default_factory=dict)


class Sink(Protocol):
    """Receives rows of metrics during a run, and a summary at its end."""

    def log(self, row: Mapping[str, float]) -> None:
        """Log one row of metrics. It contains `train/global_step`."""

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log rows of text and numbers for people to read. Each row contains `step`: the number of updates so far."""

    def finish(self, summary: Mapping[str, Any], *, failed: bool) -> None:
        """End the run. Nothing is logged after this."""


@dataclass(kw_only=True)
class Tracking(Checked, ABC):
    """Base of tracking configs. Files in the run directory are always written; a tracker mirrors them."""

    @abstractmethod
    def open(self, run: RunIdentity) -> Sink:
        """Open a sink for this run. This never prompts on the terminal.

        Raises TrackingError if the tracker can't be used as configured.
        """
