"""Where metrics go. A tracking config is a dataclass that opens a sink for a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from alignlab.checks import Checked


@dataclass(frozen=True)
class RunIdentity:
    """What a tracker needs to know of a run."""

    id: str
    directory: Path
    group: str | None
    job_type: str
    config: Mapping[str, Any] = field(default_factory=dict)


class Sink(Protocol):
    """Receives rows of metrics while a run lasts and a summary at its end."""

    def log(self, row: Mapping[str, float]) -> None:
        """One row; holds `train/global_step`."""

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows of text and numbers for people; each holds `step`, the updates so far."""

    def finish(self, summary: Mapping[str, Any], *, failed: bool) -> None:
        """The run is over; nothing is logged after this."""


@dataclass(kw_only=True)
class Tracking(Checked, ABC):
    """Base of tracking configs. Files are always written; this decides what mirrors them."""

    @abstractmethod
    def open(self, run: RunIdentity) -> Sink:
        """A sink for this run; never asks for anything on the terminal."""
