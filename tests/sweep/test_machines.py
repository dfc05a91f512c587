"""Several machines work on one folder. Each is a process with a host's name and locks of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from alignlab.integrity import write_sealed
from alignlab.runs import heartbeat
from alignlab.runs.directory import RunDir
from alignlab.runs.heartbeat import Heartbeat
from tests.lab_runs import records
from tests.sweep.launchers.test_local_pool import STEADY, eventually, running, table

Run = Callable[..., Any]

# `alignlab` on a machine that does not see the locks of others. It takes a still heartbeat for dead after 10 seconds.
# The machine `one` is slow: it logs at most two updates a second, and waits after 40 of them until it is killed.
_MACHINE = """
import socket, sys, time
from alignlab.runs import directory, heartbeat
from alignlab.tracking.sinks.jsonl import JsonlSink
name, log, rows = sys.argv[1], JsonlSink.log, []
if name == "one":
    JsonlSink.log = lambda sink, row: (rows.append(row), time.sleep(0.5 if len(rows) < 40 else 500), log(sink, row))
socket.gethostname = lambda: name
heartbeat.BEAT, heartbeat.STILL = 0.5, 10.0
directory.RunDir.lock_file = property(lambda run: run.path.parent / ".locks" / name / run.id)
from alignlab.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


def on_machine(name: str, *words: str) -> subprocess.Popen[bytes]:
    """Start `alignlab` on a machine. Its messages go to `<name>.log`."""
    with Path(f"{name}.log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-c", _MACHINE, name, *words], stdout=log, stderr=log)


@pytest.mark.slow
@pytest.mark.usefixtures("sft_parent")
@pytest.mark.parametrize("launcher", ["serial", "vectorized"])
def test_a_machine_waits_for_another_and_takes_over_when_it_is_dead(launcher: str, alignlab: Run) -> None:
    """Both have the same command. The first one is killed in the middle of its run."""
    sweep = [*STEADY, "-m", "objective.beta=0.1,0.3", "sweep.name=s", f"launcher={launcher}"]
    assert alignlab("train", *sweep, "output_root=whole").code == 0
    ids = list(table(Path("whole"), "s")["run"])
    run = RunDir.of("outputs", ids[0])
    machines = [on_machine("one", "train", *sweep)]
    try:
        eventually(lambda: running(Path("outputs"), run.id, 12), 500)
        machines.append(on_machine("two", "train", *sweep))
        eventually(lambda: f"process {machines[0].pid} on one works on it; waiting" in Path("two.log").read_text(), 500)
        assert run.record()["host"] == "one"
        assert machines[0].poll() is None
        machines[0].send_signal(signal.SIGKILL)
        assert machines[1].wait(500) == 0, Path("two.log").read_text()
        assert Path("two.log").read_text().count("waiting") == 1
    finally:
        for machine in machines:
            machine.kill()
            machine.wait()
    records = [RunDir.of("outputs", id).record() for id in ids]
    assert [record["status"] for record in records] == ["done", "done"]
    assert [record["host"] for record in records] == ["two", "two"]
    assert [(past["host"], past["status"]) for past in records[0]["attempts"]] == [("one", "interrupted")]
    assert records[0]["resumed_from"] >= 10
    exact = {"rtol": 0.0, "atol": 0.0} if launcher == "serial" else {"rtol": 1e-3, "atol": 1e-4}
    pd.testing.assert_frame_equal(table(Path("outputs"), "s"), table(Path("whole"), "s"), **exact)  # type: ignore[arg-type]


def test_a_run_of_another_machine_is_removed_when_its_heartbeat_is_dead(
    alignlab: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT", 0.05)
    monkeypatch.setattr(heartbeat, "STILL", 0.3)
    run = RunDir.of("outputs", "dpo-1")
    write_sealed(run.record_file, {"id": "dpo-1", "status": "running", "host": "another-machine", "attempt": 1})
    with Heartbeat(run.heartbeat):
        kept = alignlab("runs", "remove", "dpo-1", "--yes")
        assert (kept.code, "not removed, because a process works on it" in kept.err) == (1, True)
    run.heartbeat.write_text("7")
    assert alignlab("runs", "remove", "dpo-1", "--yes").code == 0
    assert not run.path.exists()


@pytest.mark.parametrize("launcher", ["serial", "vectorized"])
def test_a_run_that_another_machine_begins_at_the_same_moment_is_waited_for(
    launcher: str, alignlab: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other machine begins the first run between the look at its record and its start, and goes down at once."""
    monkeypatch.setattr(heartbeat, "BEAT", 0.05)
    monkeypatch.setattr(heartbeat, "STILL", 0.2)
    begin = RunDir.start

    def begin_after_the_other(run: RunDir, *args: Any, **options: Any) -> list[str]:
        monkeypatch.setattr(RunDir, "start", begin)
        write_sealed(run.record_file, {"id": run.id, "status": "running", "host": "another-machine", "attempt": 1})
        return begin(run, *args, **options)

    monkeypatch.setattr(RunDir, "start", begin_after_the_other)
    result = alignlab("train", "experiment=bandit_ipo", "trainer.max_steps=2", f"launcher={launcher}", "-m", "seed=1,2")
    assert result.code == 0, result.err
    found = sorted(records().values(), key=lambda record: len(record["attempts"]))
    assert [record["status"] for record in found] == ["done", "done"]
    assert [record["attempt"] for record in found] == [1, 2]
    assert [(past["host"], past["status"]) for past in found[1]["attempts"]] == [("another-machine", "interrupted")]
