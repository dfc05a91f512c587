"""Locks that end with their process, also on file systems without `flock`.

There, a lock is a file with the name of its process, which the next process on the same machine removes if that process
is gone. Some network file systems are of this kind.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from functools import lru_cache
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock

# What `flock` answers on a file system that does not have it.
_MISSING = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


def file_lock(file: Path | str, timeout: float = -1) -> BaseFileLock:
    """A lock on a file in a folder that exists. `timeout`: seconds to wait for it; -1 waits until it is free."""
    kind = FileLock if has_flock(Path(file).parent) else SoftFileLock
    return kind(file, timeout=timeout)


def lock_for_a_moment(file: Path, timeout: float) -> BaseFileLock:
    """A lock that all machines see which share a folder: only one of them can create its file.

    `flock` may lock out the processes of one machine only. If a machine goes down while it holds this lock, the file
    stays, so it is for moments. `timeout`: seconds to wait for it.
    """
    return SoftFileLock(file, timeout=timeout)


def is_locked(file: Path) -> bool:
    """Whether a process of this machine holds this lock. Writes nothing; for a moment no process can take the lock."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # a pipe in its place is not waited for
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return _lives(SoftFileLock(file).pid) if error.errno in _MISSING else True
    finally:
        os.close(handle)
    return False


@lru_cache
def has_flock(folder: Path) -> bool:
    """Whether the file system of a folder has `flock`. True if that can't be tried."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _MISSING
    return True


def _lives(process: int | None) -> bool:
    """Whether a process of this machine exists."""
    if process is None:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True
