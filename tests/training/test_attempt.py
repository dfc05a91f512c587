"""An attempt at a run starts, or says why its directory can't be written."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignlab.errors import OutputError
from alignlab.runs.directory import RunDir
from alignlab.training import attempt


def test_a_full_disk_is_a_message_and_what_was_saved_stays(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "plugins_of_plan", lambda train: [])
    train = SimpleNamespace(rerun=False, trainer=SimpleNamespace(anomaly=False))
    plan: Any = SimpleNamespace(config={"seed": 1}, parent=None, reward=None, kinds={}, content={}, train=train)
    run = RunDir(small_disk / "dpo-1")
    run.checkpoint.parent.mkdir(parents=True)
    run.checkpoint.write_bytes(b"s" * 1000)
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(OutputError, match=r"the disk is full\n  make room, and the same command resumes") as told:
        attempt.start_attempt(plan, run, None, [], done=3)
    assert [file.name for file in run.path.rglob("*") if file.is_file()] == ["last.ckpt"]
    assert run.checkpoint.read_bytes() == b"s" * 1000
    assert told.value.exit_code == 2, "nothing was started"
    assert getattr(attempt.record_failure(run, OSError(errno.ENOSPC, "full"), None), "exit_code", 0) == 1
    filler.unlink()
    attempt.start_attempt(plan, run, None, [], done=3)
    assert run.record()["resumed_from"] == 3
