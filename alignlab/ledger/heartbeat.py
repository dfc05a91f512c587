"""Is somebody still working on a run? Signs of life that need no clock that two machines agree on."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

BEAT = 5.0  # seconds between two beats
STILL = 6 * BEAT  # a heart that stood still for so long has stopped


class Heartbeat:
    """Counts up in a file for each run that is worked on, from a thread of its own."""

    def __init__(self, *files: Path) -> None:
        self._files = files
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        for file in self._files:
            file.unlink(missing_ok=True)

    def _beat(self) -> None:
        count = 0
        while True:
            for file in self._files:
                with suppress(OSError):  # a full disk stops the run where it matters; a missed beat stops nothing
                    file.write_text(f"{count}\n")
            if self._over.wait(BEAT):
                return
            count += 1


def beats(file: Path) -> bool:
    """Watch a heartbeat until it moves, or has stood still for STILL seconds of this process's own time."""
    first, began = _reading(file), time.monotonic()
    while time.monotonic() - began < STILL:
        time.sleep(BEAT / 5)
        if _reading(file) != first:
            return True
    return False


def is_recent(file: Path) -> bool:
    """A guess at a glance, for lists: the last beat is younger than STILL by the clock of the file system."""
    try:
        return abs(time.time() - file.stat().st_mtime) < STILL
    except OSError:
        return False


def is_held(lock_file: Path) -> bool:
    """Some process holds this lock; asks without writing anything. For a moment nobody can take it."""
    try:
        handle = os.open(lock_file, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _reading(file: Path) -> str | None:
    try:
        return file.read_text()
    except OSError:
        return None
