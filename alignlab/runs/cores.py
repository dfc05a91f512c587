"""Which cores of this machine other alignlab commands of this user compute on.

A process that computes has a file in a folder of the machine. The file holds its number of threads, and the process
holds a lock on it, so that the cores of a process count as free as soon as it ends, whatever ended it.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import Timeout

from alignlab.locks import file_lock, is_locked

# In a worker: the process that started it, which has claimed the worker's cores already.
CLAIMED = "ALIGNLAB_CORES_CLAIMED"

_PATIENCE = 5.0  # seconds to wait for another process that claims cores now
_claims: list[int] = []  # threads that this process has claimed, the innermost claim last


def folder() -> Path:
    """The folder with a file for each process. It belongs to this user."""
    return Path(tempfile.gettempdir()) / f"alignlab-cores-{os.getuid()}"


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_use() -> dict[int, int]:
    """Process -> threads of the other processes that have claimed cores. Empty if that can't be found out."""
    found: dict[int, int] = {}
    if not _is_own(folder()):
        return found
    own = (str(os.getpid()), os.environ.get(CLAIMED))
    for file in folder().glob("[0-9]*"):
        if file.name not in own and is_locked(file):
            with suppress(OSError, ValueError):  # it has just ended
                found[int(file.name)] = int(file.read_text(encoding="utf-8"))
    return found


@contextmanager
def claimed(choose: Callable[[int], int]) -> Iterator[int]:
    """Claim cores inside the block. Yields the number of threads that `choose` returned.

    choose: number of cores that no other process has claimed (at least 1) -> number of threads. Cores that this process
            or the one that started it has claimed already count as free.
    """
    inside = bool(_claims) or CLAIMED in os.environ
    with _turn():
        threads = choose(max(1, cores() - sum(in_use().values())))
        handle = None if inside else _write(threads)
    _claims.append(threads)
    try:
        yield threads
    finally:
        _claims.pop()
        if handle is not None:
            with suppress(OSError):
                (folder() / str(os.getpid())).unlink()
            os.close(handle)


@contextmanager
def _turn() -> Iterator[None]:
    """Let one process at a time claim cores. Without a folder, or after some seconds, it goes on without a turn."""
    lock = None
    with suppress(OSError):
        folder().mkdir(mode=0o700, exist_ok=True)
        if _is_own(folder()):
            lock = file_lock(folder() / "lock", timeout=_PATIENCE)
    try:
        if lock is not None:
            with suppress(Timeout, OSError, NotImplementedError):
                lock.acquire()
        yield
    finally:
        if lock is not None and lock.is_locked:
            lock.release()


def _write(threads: int) -> int | None:
    """Write this process's file and lock it. Returns its descriptor; None if that is impossible here."""
    if not _is_own(folder()):
        return None
    with suppress(OSError):
        handle = os.open(folder() / str(os.getpid()), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(handle, str(threads).encode())
        except OSError:
            os.close(handle)
            raise
        return handle
    return None


def _is_own(place: Path) -> bool:
    """Whether a path is a folder of this user, and no link to one."""
    try:
        found = place.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
