"""Whether a process still works on a run, without comparing the clocks of two machines."""

from __future__ import annotations

import atexit
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType

from alignlab.integrity import refuse_device
from alignlab.locks import file_lock

BEAT = 5.0  # seconds between two beats
STILL = 6 * BEAT  # seconds without a beat after which a process counts as gone


class Heartbeat:
    """A thread that increases a number in the file of each run while this process works on them."""

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
                with suppress(OSError):  # on a full disk the run itself fails; a missed beat has no effect
                    file.write_text(f"{count}\n", encoding="utf-8")
            if self._over.wait(BEAT):
                return
            count += 1


def beating(files: Iterable[Path]) -> set[Path]:
    """Watch heartbeats until all have changed, for at most STILL seconds by this process's clock.

    Returns those that changed.
    """
    unchanged = {file: _reading(file) for file in files}
    moved: set[Path] = set()
    began = time.monotonic()
    while unchanged and time.monotonic() - began < STILL:
        time.sleep(BEAT / 5)
        moved |= {file for file, first in unchanged.items() if _reading(file) != first}
        unchanged = {file: first for file, first in unchanged.items() if file not in moved}
    return moved


@lru_cache
def sign_of_life(folder: Path) -> str:
    """Name of a file in a folder that is locked as long as this process lives (see `is_locked`)."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix="process-", dir=folder, delete=False) as made:
        lock = file_lock(made.name)
    lock.acquire()

    @atexit.register
    def end() -> None:
        with suppress(OSError):  # the folder may be gone
            Path(made.name).unlink(missing_ok=True)
        lock.release()

    return Path(made.name).name


def is_recent(file: Path) -> bool:
    """Whether the last beat is younger than STILL by the file system's clock. A fast guess, for lists of runs."""
    try:
        return abs(time.time() - file.stat().st_mtime) < STILL
    except OSError:
        return False


def _reading(file: Path) -> str | None:
    try:
        refuse_device(file)
        return file.read_text(encoding="utf-8")
    except OSError:
        return None
