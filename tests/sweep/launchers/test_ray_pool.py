"""Points on a real Ray with two workers give the same results as in one process, whatever happens to one of them."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from alignlab.integrity import sha256_of
from alignlab.runs.directory import RunDir
from tests.lab_runs import LAB
from tests.stress.sweep import faults, stress
from tests.sweep.launchers.test_local_pool import eventually, running, states, table

Run = Callable[..., Any]
STEADY = [*LAB, "trainer.max_steps=60", "trainer.checkpoint_every=5"]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='pip install "alignlab[ray]"')


@pytest.fixture
def two_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray on a machine with two cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    yield
    import ray

    ray.shutdown()


def listening() -> set[str]:
    """Addresses on which this process and its descendants listen."""
    me = psutil.Process()
    found = [c for p in (me, *me.children(recursive=True)) for c in p.net_connections() if c.status == "LISTEN"]
    return {c.laddr.ip.removeprefix("::ffff:") for c in found}


@needs_ray
@pytest.mark.slow
def test_a_killed_worker_costs_its_own_point_only(alignlab: Run, two_workers: None) -> None:
    sweep = [*STEADY, "-m", "objective.beta=0.1,0.2,0.3,0.5", "seed=1,2,3", "sweep.name=s"]
    for launcher in ("ray", "local"):
        assert alignlab("train", *sweep, f"output_root={launcher}", f"launcher={launcher}").code == 0
    point = json.loads(Path("ray/sweeps/s/sweep.json").read_text())["points"][0]["run"]
    open_to: set[str] = set()

    def kill() -> None:
        process = eventually(lambda: running(Path("outputs"), point, 8), 500)
        open_to.update(listening())
        os.kill(process, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    result = alignlab("train", *sweep, "launcher=ray")
    killer.join()
    assert result.code == 0, result.err
    assert open_to == {"127.0.0.1"}, "Ray listens on loopback only"
    pd.testing.assert_frame_equal(table(Path("outputs"), "s"), table(Path("ray"), "s"))
    # The parent has one thread on Ray and all cores in a local process, which changes the rounding.
    pd.testing.assert_frame_equal(table(Path("outputs"), "s"), table(Path("local"), "s"), rtol=0.02, atol=0.02)
    first, *others = states(Path("outputs"), "s")
    assert first["attempts"][0]["reason"].startswith("its process ended with WorkerCrashedError")
    assert [first["attempt"], *(other["attempt"] for other in others)] == [2] + [1] * 11
    assert first["machine"]["threads"] == 1
    assert first["pid"] != os.getpid()
    assert len(list(Path("outputs/runs").glob("sft-*/run.json"))) == 1
    assert "done, in" in Path(f"outputs/sweeps/s/logs/{point}.log").read_text()


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("sft_parent")
def test_without_retries_a_killed_point_has_failed_and_the_same_command_resumes_it(
    alignlab: Run, two_workers: None
) -> None:
    sweep = [*STEADY, "-m", "objective.beta=0.1,0.3,0.5", "sweep.name=s", "launcher=ray", "launcher.retries=0"]
    assert alignlab("train", *STEADY, "objective.beta=0.1", "output_root=whole").code == 0
    (whole,) = Path("whole/runs").glob("dpo-*[0-9a-f]")
    root = Path("outputs")
    killer = threading.Thread(
        target=lambda: os.kill(eventually(lambda: running(root, whole.name, 8), 500), signal.SIGKILL)
    )
    killer.start()
    result = alignlab("train", *sweep)
    killer.join()
    assert result.code == 3, result.err
    assert "no result for 1 of 3 points" in result.err
    first, *others = states(root, "s")
    assert (first["id"], first["status"], first["attempt"]) == (whole.name, "failed", 1)
    assert first["reason"].startswith("its process ended with WorkerCrashedError")
    assert [other["status"] for other in others] == ["done", "done"]
    assert alignlab("train", *sweep).code == 0
    first, *others = states(root, "s")
    assert (first["status"], first["attempt"], first["resumed_from"] >= 5) == ("done", 2, True)
    assert [(other["status"], other["attempt"]) for other in others] == [("done", 1), ("done", 1)]
    resumed = RunDir.of(root, whole.name).policy / "model.safetensors"
    assert sha256_of(resumed) == sha256_of(whole / "policy/model.safetensors")


@needs_ray
@pytest.mark.slow
def test_no_point_is_lost_if_workers_and_the_command_are_killed(tmp_path: Path) -> None:
    outcome = stress(tmp_path, points=8, kills=3, commands=1, launcher="ray")
    found = list(faults(tmp_path, outcome, points=8, kills=3))
    assert found == [], (tmp_path / "stress.log").read_text()[-3000:]
    assert outcome.codes == [-signal.SIGKILL, 0]
    assert not list(psutil.Process().children(recursive=True)), "nothing is left behind"


@needs_ray
@pytest.mark.slow
def test_ctrl_c_saves_the_state_of_what_runs(alignlab: Run) -> None:
    """The command in a process of its own. It starts a Ray, which ends with it."""
    sweep = [*STEADY, "trainer.max_steps=400", "-m", "objective.beta=0.1,0.3,0.5", "sweep.name=s"]
    sweep += ["launcher=ray", "launcher.at_once=2"]
    root = Path("outputs")
    command = [sys.executable, "-m", "alignlab.cli.main", "train", *sweep]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    eventually(lambda: (root / "sweeps/s/sweep.json").is_file())
    first = json.loads((root / "sweeps/s/sweep.json").read_text())["points"][0]["run"]
    eventually(lambda: running(root, first, 7), 500)
    os.killpg(parent.pid, signal.SIGINT)  # like a terminal, which signals all processes of the command
    _, err = parent.communicate(timeout=120)
    assert parent.returncode == 130
    assert b"the same command resumes" in err
    run = RunDir.of(root, first)
    assert run.state()["reason"] == "stopped by a signal"
    assert run.checkpoint.is_file()
    assert [s["status"] for s in states(root, "s")][::2] == ["interrupted", "interrupted"]
    assert "not begun" in states(root, "s")[2]["reason"]
    assert not list(psutil.Process().children(recursive=True)), "nothing is left behind"


def test_what_the_machine_has_not_is_refused() -> None:
    from types import SimpleNamespace

    from alignlab.errors import AlignlabError
    from alignlab.sweep.launchers.ray_pool import RayPool

    there = SimpleNamespace(cluster_resources=lambda: {"CPU": 4.0})
    limits = {"at_once": 0, "retries": 1}
    RayPool(address="", cpus=4, gpus=0, **limits)._refuse_too_much(there)
    RayPool(address="head:6379", cpus=64, gpus=1, **limits)._refuse_too_much(there)  # a cluster may grow
    for cpus, gpus, said in ((8, 0, "launcher.cpus=8 .* has 4"), (1, 0.5, "launcher.gpus=0.5 .* has 0")):
        with pytest.raises(AlignlabError, match=said):
            RayPool(address="", cpus=cpus, gpus=gpus, **limits)._refuse_too_much(there)


def test_a_ray_that_does_not_start_is_told_with_what_works_without_it() -> None:
    """On a busy machine, Ray gives up after half a minute."""
    from alignlab.sweep.launchers.ray_pool import _not_connected

    told = _not_connected("", RuntimeError("The current node timed out during startup.\nmore"))
    assert told.splitlines() == [
        "no Ray can be started here: The current node timed out during startup.",
        "  type: launcher=local   (processes on this machine, without Ray)",
    ]
    assert _not_connected("head:6379", ConnectionError()) == "no Ray answers at head:6379: ConnectionError"


def test_without_the_package_nothing_is_started(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignlab.checks.importlib.util.find_spec", lambda name: None)
    result = alignlab("train", *LAB, "-m", "seed=1,2", "launcher=ray", "launcher.cpus=0", "launcher.retries=-1")
    assert result.code == 2
    for said in ('pip install "alignlab[ray]"', "launcher.cpus = 0", "launcher.retries = -1"):
        assert said in result.err
    assert not Path("outputs").exists()


@needs_ray
def test_a_ray_that_is_not_there(alignlab: Run) -> None:
    result = alignlab("train", *LAB, "-m", "seed=1,2", "launcher=ray", "launcher.address=127.0.0.1:1")
    assert result.code == 1
    assert "no Ray answers at 127.0.0.1:1" in result.err
    assert "Traceback" not in result.err
