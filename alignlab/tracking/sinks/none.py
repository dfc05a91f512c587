"""No tracker: the run directory is the only record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignlab.tracking.sinks.base import RunIdentity, Sink, Tracking


class NullSink:
    """Accepts everything and does nothing."""

    def log(self, row: Mapping[str, float]) -> None:
        pass

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        pass

    def finish(self, summary: Mapping[str, Any], *, failed: bool) -> None:
        pass


@dataclass(kw_only=True)
class NoTracking(Tracking):
    """No tracker: only the files in the run directory are written."""

    def open(self, run: RunIdentity) -> Sink:
        return NullSink()
