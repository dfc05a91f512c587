"""Ctrl-C once, Ctrl-C twice: what launchers that run points elsewhere do about signals."""

from __future__ import annotations

import logging
import signal
from types import FrameType, TracebackType

log = logging.getLogger(__name__)


class InterruptCounter:
    """Counts SIGINT and SIGTERM while the block runs: after the first, what runs saves its state; the second ends it.

    Handlers only count. A launcher looks at `asked` between two looks at its workers, where it may call anything.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._seen = 0

    def __enter__(self) -> InterruptCounter:
        self._before = {number: signal.signal(number, self._count) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def news(self) -> bool:
        """Whether there was a signal since the last time."""
        before, self._seen = self._seen, self.asked
        return self._seen > before

    def _count(self, number: int, frame: FrameType | None) -> None:
        self.asked += 1
        if self.asked == 1:
            log.warning("stopping: what runs saves its state first; once more stops at once")
