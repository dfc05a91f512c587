"""Signals to launchers that run points in other processes: the first Ctrl-C saves states, the second ends at once."""

from __future__ import annotations

import logging
import signal
from types import FrameType, TracebackType

log = logging.getLogger(__name__)

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptCounter:
    """Counts SIGINT, SIGTERM and SIGHUP while the block runs. SIGHUP stays ignored if it was, as under `nohup`.

    After the first signal, running points save their state and stop. After the second, they are killed. The handler
    only counts: the launcher reads `signals` in its own loop, where it may call any function.
    """

    def __init__(self) -> None:
        self.signals = 0
        self._seen = 0

    def __enter__(self) -> InterruptCounter:
        heard = (n for n in _STOPS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN)
        self._before = {number: signal.signal(number, self._count) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def news(self) -> bool:
        """Whether a signal arrived since the last call."""
        before, self._seen = self._seen, self.signals
        return self._seen > before

    def _count(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1
        if self.signals == 1:
            log.warning("stopping: running points save their state first; press Ctrl-C again to stop at once")
