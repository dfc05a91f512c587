"""Commands on one machine see how many cores the others compute on."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from alignlab.runs import cores as module
from alignlab.runs.cores import CLAIMED, claimed, folder, in_use

_OTHER = """
import sys, time
from alignlab.runs.cores import claimed
with claimed(lambda free: int(sys.argv[1])):
    print("claimed", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores, on which no other command computes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "cores", lambda: 8)
    monkeypatch.setattr(module, "_claims", [])
    monkeypatch.delenv(CLAIMED, raising=False)


@contextmanager
def another_command(threads: int) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "TMPDIR": str(tempfile.gettempdir())}
    command = [sys.executable, "-c", _OTHER, str(threads)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def test_cores_of_another_command_are_taken_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    with another_command(3) as other:
        assert in_use() == {other.pid: 3}
        with claimed(lambda free: seen.append(free) or free):
            assert seen == [5]
        other.kill()  # it can't clean up
        other.wait()
        assert (folder() / str(other.pid)).exists()
        assert in_use() == {}


def test_the_last_core_can_always_be_used() -> None:
    with another_command(9), claimed(lambda free: free) as threads:
        assert threads == 1


def test_a_process_does_not_count_its_own_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither twice, nor in a worker those that the process which started it has claimed."""
    with claimed(lambda free: 6), claimed(lambda free: free) as inner:
        assert inner == 8
        assert (folder() / str(os.getpid())).read_text() == "6"
    assert not (folder() / str(os.getpid())).exists()
    with another_command(7) as other:
        monkeypatch.setenv(CLAIMED, str(other.pid))
        with claimed(lambda free: free) as threads:
            assert threads == 8
            assert not (folder() / str(os.getpid())).exists()


@pytest.mark.parametrize("kind", ["file", "link", "nowhere"])
def test_without_a_folder_of_its_own_it_goes_on(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "file":
        folder().write_text("in the way")
    elif kind == "link":
        (tmp_path / "elsewhere").mkdir()
        folder().symlink_to(tmp_path / "elsewhere")
    else:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with claimed(lambda free: free) as threads:
        assert (threads, in_use()) == (8, {})
    assert not list(tmp_path.glob("elsewhere/*"))
