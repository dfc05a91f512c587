"""Locks on file systems with and without `flock`: one process at a time, and none after its process was killed."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, SoftFileLock, Timeout

from alignlab.locks import file_lock, has_flock, is_locked
from alignlab.runs.directory import RunDir

# A process that takes the lock of a run and is killed while it has it.
_KILLED = """
import errno, fcntl, os, signal, sys
def flock(*given):
    raise OSError(int(sys.argv[2]), "no flock here")
fcntl.flock = flock
from alignlab.runs.directory import RunDir
lock = RunDir.of(sys.argv[1], "dpo-1").lock()
lock.acquire()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def without_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """`flock` fails as on a file system that does not have it. Returns its error number."""

    def flock(*given: Any) -> None:
        raise OSError(request.param, "no flock here")

    has_flock.cache_clear()
    monkeypatch.setattr(fcntl, "flock", flock)
    yield int(request.param)
    has_flock.cache_clear()


def test_a_lock_is_one_of_the_system_where_there_is_one(tmp_path: Path) -> None:
    lock = file_lock(tmp_path / "lock")
    assert isinstance(lock, FileLock)
    with lock:
        assert is_locked(tmp_path / "lock")
    assert not is_locked(tmp_path / "lock")
    assert not is_locked(tmp_path / "nothing")


def test_without_flock_one_process_at_a_time_has_a_run(without_flock: int, tmp_path: Path) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    with run.locked() as mine:
        assert mine
        assert isinstance(run.lock(), SoftFileLock)
        assert run.is_locked()
        with run.locked(wait=False) as also:
            assert not also
        with pytest.raises(Timeout), file_lock(run.lock_file, timeout=0):
            pass
    assert not run.is_locked()
    with run.locked(wait=False) as again:
        assert again


def test_without_flock_a_killed_process_leaves_no_lock(without_flock: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _KILLED, str(tmp_path), str(without_flock)]
    assert subprocess.run(command, env=os.environ).returncode == -9
    run = RunDir.of(tmp_path, "dpo-1")
    assert run.lock_file.exists()
    run.update(id="dpo-1", status="running", host="elsewhere")
    assert not run.is_locked()
    run.update(host=os.uname().nodename)
    assert run.status() == "interrupted"
    with run.locked() as mine:
        assert mine
