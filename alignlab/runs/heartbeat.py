"""Is somebody still working on a run? Signs of life that need no clock that two machines agree on."""

from __future__ import annotations

import atexit
import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType

from filelock import FileLock

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


def beating(files: Iterable[Path]) -> set[Path]:
    """Watch heartbeats until all have moved, or STILL seconds of this process's own time are over; those that moved."""
    still = {file: _reading(file) for file in files}
    moved: set[Path] = set()
    began = time.monotonic()
    while still and time.monotonic() - began < STILL:
        time.sleep(BEAT / 5)
        moved |= {file for file, first in still.items() if _reading(file) != first}
        still = {file: first for file, first in still.items() if file not in moved}
    return moved


@lru_cache
def sign_of_life(folder: Path) -> str:
    """Name of a file in a folder that is locked as long as this process lives: `is_locked` tells."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix="process-", dir=folder, delete=False) as made:
        lock = FileLock(made.name)
    lock.acquire()

    @atexit.register
    def end() -> None:
        with suppress(OSError):  # the folder may be gone
            Path(made.name).unlink(missing_ok=True)
        lock.release()

    return Path(made.name).name


def is_recent(file: Path) -> bool:
    """A guess at a glance, for lists: the last beat is younger than STILL by the clock of the file system."""
    try:
        return abs(time.time() - file.stat().st_mtime) < STILL
    except OSError:
        return False


def is_locked(lock_file: Path) -> bool:
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
