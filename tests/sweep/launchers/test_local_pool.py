"""Points in several processes give the same results as in one, whatever happens to one of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from alignlab.errors import AlignlabError
from alignlab.models import efficiency as economy
from alignlab.models.efficiency import compiling_pays_for
from alignlab.reports.live import last_row, seconds_left, sweep_status, view
from alignlab.runs.directory import RunDir
from alignlab.sweep.launchers import host, local_pool
from alignlab.sweep.launchers.host import Slot, free_gpus, share_gpus, slots
from alignlab.sweep.launchers.local_pool import Pool
from alignlab.sweep.launchers.process import library_settings
from alignlab.vectorized import eligibility
from alignlab.vectorized.eligibility import worth_processes
from tests.lab_runs import LAB

Run = Callable[..., Any]
STEADY = [*LAB, "trainer.max_steps=60", "trainer.checkpoint_every=5"]


def table(root: Path, name: str) -> pd.DataFrame:
    """A sweep's table without the columns that differ between any two runs."""
    return (
        pd.read_csv(root / "sweeps" / name / "table.csv")
        .drop(columns=["time/train_seconds"])
        .filter(regex="^(?!.*second)")
    )


def states(root: Path, name: str) -> list[dict[str, Any]]:
    points = json.loads((root / "sweeps" / name / "sweep.json").read_text())["points"]
    return [RunDir.of(root, point["run"]).state() for point in points]


def eventually(condition: Callable[[], Any], seconds: float = 120) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it never came to that")


def running(root: Path, id: str, step: int) -> int:
    """Process id of a run that has reached a step; 0 before."""
    run = RunDir.of(root, id)
    record = run.state()
    there = record.get("status") == "running" and last_row(run.metrics).get("train/global_step", 0) >= step
    return int(record["pid"]) if there else 0


@pytest.mark.usefixtures("sft_parent")
def test_a_killed_worker_hurts_its_own_point_only(alignlab: Run) -> None:
    """Three points in two processes at a time; the log of each has only its own messages."""
    # Without a launcher such small points are vectorized, which changes the rounding.
    points = [*STEADY, "trainer.max_steps=30", "-m", "objective.beta=0.1,0.3,0.5", "sweep.name=s"]
    assert alignlab("train", *points, "launcher=serial", "output_root=whole").code == 0
    sweep = [*points, "launcher=local", "launcher.at_once=2"]
    point = json.loads(Path("whole/sweeps/s/sweep.json").read_text())["points"][0]["run"]
    killer = threading.Thread(
        target=lambda: os.kill(eventually(lambda: running(Path("outputs"), point, 8)), signal.SIGKILL)
    )
    killer.start()
    result = alignlab("train", *sweep)
    killer.join()
    assert result.code == 0, result.err
    assert "its process ended with signal SIGKILL; tried again" in result.err
    pd.testing.assert_frame_equal(table(Path("outputs"), "s"), table(Path("whole"), "s"))
    records = states(Path("outputs"), "s")
    first, second, third = records
    assert [a["reason"] for a in first["attempts"]] == ["its process ended with signal SIGKILL"]
    assert (first["attempt"], second["attempt"], third["attempt"]) == (2, 1, 1)
    assert first["machine"]["threads"] == 1, "the models of the lab are small"
    pids = {record["pid"] for record in records}
    assert os.getpid() not in pids
    assert len(pids) <= 2, "a process goes on with the next point"
    for record in (second, third):
        told = (Path("outputs/sweeps/s/logs") / f"{record['id']}.log").read_text()
        assert told.count(f"{record['id']}: starting") == 1
        assert not any(other["id"] in told for other in records if other is not record)
    assert len(list(Path("outputs/runs").glob("sft-*/run.json"))) == 1
    assert len(list(Path("outputs/reference").rglob("*.safetensors"))) == 1


@pytest.mark.parametrize("launcher", ["serial", pytest.param("local", marks=pytest.mark.slow), "vectorized"])
@pytest.mark.usefixtures("sft_parent")
def test_a_file_in_the_way_stops_its_own_point_only(launcher: str, alignlab: Run) -> None:
    sweep = [*STEADY, "trainer.max_steps=5", "-m", "objective.beta=0.1,0.2,0.3", "sweep.name=s", f"launcher={launcher}"]
    ids = re.findall(r"^(dpo-\w+)", alignlab("check", *sweep[:-1]).out, re.M)
    in_the_way = Path("outputs/runs") / ids[1]
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.write_text("something else")
    found = alignlab("train", *sweep)
    assert found.code == 3
    assert "no result for 1 of 3 points" in found.err
    assert [state.get("status") for state in states(Path("outputs"), "s")] == ["done", None, "done"]
    in_the_way.unlink()
    assert alignlab("train", *sweep).code == 0
    assert [state.get("attempt") for state in states(Path("outputs"), "s")] == [1, 1, 1]


@pytest.mark.slow
def test_a_sweep_through_everything_that_can_happen(alignlab: Run, small_disk: Path) -> None:
    """Of 12 points one is killed, one raises, one finds a full disk and one diverges. The parent is killed too."""
    betas = ",".join(str(round(0.05 * i, 2)) for i in range(1, 13))
    rates = ",".join(["3e-3"] * 11 + ["1e30"])
    sweep = [
        *STEADY, "-m", f"objective.beta={betas}", f"optim.lr={rates}", "sweep.zip=[[objective.beta,optim.lr]]",
        "sweep.name=s", "launcher=local",
    ]  # fmt: skip
    calm, root = Path("calm"), Path("outputs")
    assert alignlab("train", *sweep, "output_root=calm").code == 0
    runs = [point["run"] for point in json.loads((calm / "sweeps/s/sweep.json").read_text())["points"]]

    (root / "runs" / ".locks" / runs[1]).mkdir(parents=True)  # a folder in place of the lock file
    (root / "runs" / runs[2]).symlink_to(small_disk)
    command = [sys.executable, "-m", "alignlab.cli.main", "train", *sweep]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    os.kill(eventually(lambda: running(root, runs[0], 8)), signal.SIGKILL)
    eventually(lambda: RunDir.of(root, runs[2]).record().get("status") == "failed")
    at_work = eventually(lambda: [id for id in runs[3:] if running(root, id, 6)])
    parent.kill()
    parent.wait()
    eventually(lambda: not any(running(root, id, 0) for id in runs))
    before = dict(zip(runs, states(root, "s"), strict=True))
    assert "No such" not in str(before[runs[2]]["reason"])
    assert "the disk is full" in before[runs[2]]["reason"]
    assert before[runs[1]]["status"] == "failed"
    assert "interrupted" in {before[id]["status"] for id in at_work}
    done = {id: record["attempt"] for id, record in before.items() if record["status"] == "done"}

    (root / "runs" / ".locks" / runs[1]).rmdir()
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    result = alignlab("train", *sweep)
    assert result.code == 0, result.err
    after = dict(zip(runs, states(root, "s"), strict=True))
    assert [after[id]["status"] for id in runs] == ["done"] * 11 + ["diverged"]
    assert {id: after[id]["attempt"] for id in done} == done, "nothing that was done is repeated"
    assert all(r["attempt"] <= 3 for r in after.values())
    pd.testing.assert_frame_equal(table(root, "s"), table(calm, "s"))
    again = alignlab("train", *sweep)
    assert again.code == 0
    assert {id: r["attempt"] for id, r in zip(runs, states(root, "s"), strict=True)} == {
        id: r["attempt"] for id, r in after.items()
    }, "to diverge is a result, not to be repeated"


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c(times: int, alignlab: Run) -> None:
    """After one Ctrl-C runs save their state and the table is written. Two stop at once. The same command finishes."""
    sweep = [*STEADY, "trainer.max_steps=400", "-m", "objective.beta=0.1,0.3,0.5", "sweep.name=s", "launcher=local"]
    root = Path("outputs")
    command = [sys.executable, "-m", "alignlab.cli.main", "train", *sweep]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    eventually(lambda: (root / "sweeps/s/sweep.json").is_file())
    first = json.loads((root / "sweeps/s/sweep.json").read_text())["points"][0]["run"]
    eventually(lambda: running(root, first, 12))
    for _ in range(times):
        parent.send_signal(signal.SIGINT)
        time.sleep(0.1)
    _, err = parent.communicate(timeout=60)
    assert parent.returncode == 130
    assert "the same command resumes" in err
    assert [s["status"] for s in states(root, "s")][::2] == ["interrupted", "interrupted"]
    assert "not begun" in states(root, "s")[2]["reason"]
    assert RunDir.of(root, first).checkpoint.is_file()
    assert "interrupted" in (root / "sweeps/s/table.md").read_text()
    assert alignlab("train", *sweep).code == 0
    assert [s["status"] for s in states(root, "s")] == ["done"] * 3


def test_parts_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(host, "in_use", dict)
    monkeypatch.setattr(host, "free_gpus", list)
    assert slots(3, 0, 1) == [Slot(5)] * 3
    assert slots(40, 0, 1) == [Slot(1)] * 16
    assert slots(40, 4, 1) == [Slot(4)] * 4
    assert slots(40, 0, 1, 5) == [Slot(1)] * 5, "as many cores as another command leaves"
    monkeypatch.setattr(host, "in_use", lambda: {1: 10, 2: 4})
    assert slots(40, 0, 1) == [Slot(1)] * 2
    monkeypatch.setattr(host, "in_use", dict)
    monkeypatch.setattr(host, "free_gpus", lambda: ["0", "2"])
    assert slots(40, 0, 1) == [Slot(8, "0"), Slot(8, "2")]
    assert [s.gpu for s in slots(40, 0, 2)] == ["0", "0", "2", "2"]
    assert [s.gpu for s in slots(40, 3, 2)] == ["0", "0", "2"]
    assert [s.gpu for s in slots(40, 8, 1)] == ["0", "2"], "their memory can't be shared for the asking"
    assert slots(1, 0, 2) == [Slot(16, "0")]
    assert slots(40, 0, 1, devices=2) == [Slot(8, "0,2")], "threads are those of each process"
    with pytest.raises(AlignlabError, match="on 3 GPUs, but only 2 can be used"):
        slots(40, 0, 1, devices=3)
    monkeypatch.setattr(host, "free_gpus", lambda: ["0", "2", "3", "5", "6"])
    assert [s.gpu for s in slots(40, 0, 1, devices=2)] == ["0,2", "3,5"]
    assert [s.gpu for s in slots(1, 0, 1, devices=4)] == ["0,2,3,5"]
    monkeypatch.setattr(host, "free_gpus", list)
    assert slots(40, 0, 1, devices=4) == [Slot(1)] * 4
    told = Slot(8, "2").environment()
    assert (told["OMP_NUM_THREADS"], told["CUDA_VISIBLE_DEVICES"], told["PATH"]) == ("8", "2", os.environ["PATH"])
    assert library_settings(8).items() <= told.items(), "as in workers of Ray and SLURM"


@pytest.mark.parametrize(
    ("visible", "found"), [(None, ["GPU-a", "GPU-d"]), ("1,3", ["3"]), ("GPU-d", ["GPU-d"]), ("", []), ("0", ["0"])]
)
def test_free_gpus(visible: str | None, found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script in place of nvidia-smi prints index, uuid, used and total memory (MiB)."""
    said = "0, GPU-a, 3, 81559\n1, GPU-b, 40000, 81559\n2, GPU-c, 81000, 81559\n3, GPU-d, 0, 81559"
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{said}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert free_gpus() == found
    assert share_gpus() == (visible != "0" and visible != "" and visible != "GPU-d"), "the first may be taken"


@pytest.mark.parametrize(
    ("memory", "free", "used"), [("[N/A], [N/A]", ["GPU-a"], ["GPU-a"]), ("40000, 81559", [], ["GPU-a"])]
)
def test_gpus_that_are_busy_or_tell_nothing(
    memory: str, free: list[str], used: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the only GPU is in use, one process shares it. It does not get one process for each core."""
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '0, GPU-a, {memory}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert free_gpus() == free
    assert [slot.gpu for slot in slots(5, 0, 1)] == used


def test_no_gpus_without_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert free_gpus() == []


@pytest.mark.parametrize(
    ("peaks", "now", "idle", "free", "room"),
    [
        ([], [], [], 0.1, True),  # one task may always run
        ([3.0], [3.0], [], 5.0, True),
        ([3.0], [3.0], [], 3.5, False),  # 5 % of 32 GB stay free
        ([3.0], [1.0], [], 5.0, False),  # it may still need 2 GB more
        ([0.1], [0.1], [], 4.0, True),  # an unknown need counts as 1 GB
        ([0.1], [0.1], [], 2.0, False),
        ([6.0, 1.0], [6.0, 1.0], [], 12.0, False),  # the other one may come to need 6 GB too
        ([3.0], [3.0], [2.5], 2.5, True),  # the idle worker has most of this memory already
        ([3.0], [3.0], [1.0], 2.5, False),
    ],
)
def test_memory_decides_how_many(
    peaks: Sequence[float],
    now: Sequence[float],
    idle: Sequence[float],
    free: float,
    room: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = SimpleNamespace(available=free * 2**30, total=32 * 2**30)
    monkeypatch.setattr(host.psutil, "virtual_memory", lambda: memory)
    workers = [
        SimpleNamespace(peak=peak * 2**30, look=lambda held=held: held * 2**30)
        for peak, held in zip(peaks, now, strict=True)
    ]
    waiting = [SimpleNamespace(look=lambda held=held: held * 2**30) for held in idle]
    assert Pool(1, at_once=0, per_gpu=1, retries=0)._has_room(workers, waiting) is room  # type: ignore[arg-type]


def test_memory_of_a_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container or a job has less memory than the machine. Memory of cached files counts as available."""
    memory = SimpleNamespace(available=20e9, total=32e9)
    monkeypatch.setattr(host.psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(host, "_GROUPS", tmp_path)
    monkeypatch.setattr(host, "_OWN_GROUPS", tmp_path / "own")
    assert host.memory() == (20e9, 32e9), "no such file elsewhere than on Linux"
    (tmp_path / "own").write_text("2:cpu,cpuacct:/job\n0::/job/step\n")
    job = tmp_path / "job"
    (job / "step").mkdir(parents=True)
    (job / "memory.max").write_text("8000000000\n")
    (job / "memory.current").write_text("5000000000\n")
    (job / "memory.stat").write_text("anon 4000000000\ninactive_file 1000000000\n")
    assert host.memory() == (4e9, 8e9)
    (job / "memory.max").write_text("max\n")
    assert host.memory() == (20e9, 32e9)
    (tmp_path / "own").write_text("4:memory:/box\n0::/\n")
    old = tmp_path / "memory" / "box"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("6000000000\n")
    (old / "memory.usage_in_bytes").write_text("1000000000\n")
    (old / "memory.stat").write_text("total_inactive_file 500000000\n")
    assert host.memory() == (5.5e9, 6e9)


def test_a_worker_that_died_without_a_task_costs_nothing(alignlab: Run) -> None:
    with Pool(1, at_once=1, per_gpu=1, retries=0) as workers:
        workers.warm_up(1)
        (worker,) = workers._idle
        worker.process.kill()
        worker.process.wait()
        workers.run([], lambda name: None)
        workers._drop_dead_workers()
        assert (workers._idle, workers._free) == ([], [worker.slot])


def test_options_of_local_are_checked(alignlab: Run) -> None:
    sweep = [*LAB, "-m", "objective.beta=0.1,0.2", "launcher=local"]
    result = alignlab("train", *sweep, "launcher.per_gpu=0", "launcher.retries=-1")
    assert result.code == 2
    assert "launcher.per_gpu = 0" in result.err
    assert "launcher.retries = -1" in result.err


@pytest.mark.usefixtures("sft_parent")
def test_an_evaluation_that_fails_is_told(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is done, the sweep is not. The same command evaluates the run."""
    sweep = [*LAB, "trainer.max_steps=2", "evaluation.at_end=true", "-m", "objective.beta=0.1,0.2", "sweep.name=s"]

    def fail(*given: Any) -> Any:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patched:
        patched.setattr("alignlab.pipeline.evaluate.evaluate", fail)
        result = alignlab("train", *sweep)
    assert result.code == 3
    assert "no result for 2 of 2 points" in result.err
    assert result.err.count("done: its evaluation failed: RuntimeError: out of luck") == 2
    assert [state["status"] for state in states(Path("outputs"), "s")] == ["done", "done"]
    result = alignlab("train", *sweep)
    assert result.code == 0, result.err
    assert [state["attempt"] for state in states(Path("outputs"), "s")] == [1, 1]


@pytest.mark.slow  # 24 s: three processes import all libraries
def test_what_points_start_from_runs_in_their_processes(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """If processes pay, `auto` starts two at once. The one that trains the parent continues with a point."""
    monkeypatch.setattr(eligibility, "_WORTH_PROCESSES", 1)
    monkeypatch.setattr(eligibility, "_MOSTLY_OVERHEAD", 0)
    monkeypatch.setattr(local_pool, "slots", lambda *given: [Slot(1), Slot(1)])
    terminal = SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("alignlab.sweep.sweep.sys", terminal)
    ended: list[str] = []
    monkeypatch.setattr(Pool, "run", lambda self, tasks, told, run=Pool.run: run(self, tasks, ended.append))
    sweep = [*LAB, "trainer.max_steps=3", "-m", "objective.beta=0.1,0.2,0.3", "sweep.name=s"]
    result = alignlab("train", *sweep)
    assert result.code == 0, result.err
    (sft,) = (RunDir.of(Path("outputs"), path.name).record() for path in Path("outputs/runs").glob("sft-*"))
    pids = {record["pid"] for record in states(Path("outputs"), "s")}
    assert os.getpid() not in pids
    assert len(pids) == 2
    assert sorted(ended) == sorted([sft["id"], *(record["id"] for record in states(Path("outputs"), "s"))])
    assert sorted(record["stacked"] or 1 for record in states(Path("outputs"), "s")) == [1, 2, 2]
    assert "s: 3 points  3 done" in result.out, "a terminal shows all of them, not the rows as they end"
    assert "| 0.1 |" in result.out.split("3 done")[-1], "the table at the end"
    assert result.out.count("| 0.1 |") == 1
    assert sft["pid"] in pids
    assert sft["attempt"] == 1


def test_small_models_with_much_to_do_get_processes_and_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = SimpleNamespace(batch_size=64, known_steps=400)
    lab = SimpleNamespace(train=SimpleNamespace(model=SimpleNamespace(parameters=83_000), trainer=trainer))
    large = SimpleNamespace(train=SimpleNamespace(model=SimpleNamespace(parameters=None), trainer=trainer))
    assert worth_processes([lab] * 5)  # type: ignore[list-item]
    assert not worth_processes([lab] * 4)  # type: ignore[list-item]
    assert not worth_processes([large] * 100)  # type: ignore[list-item]
    monkeypatch.setattr(economy, "cpp_compiler", lambda: "g++")
    assert compiling_pays_for(8000)
    assert not compiling_pays_for(7999)
    monkeypatch.setattr(economy, "cpp_compiler", lambda: None)
    assert not compiling_pays_for(8000)


@pytest.mark.usefixtures("sft_parent")
def test_the_view_of_a_sweep(alignlab: Run) -> None:
    from rich.console import Console

    assert alignlab("train", *LAB, "trainer.max_steps=3", "-m", "objective.beta=0.1,0.3", "sweep.name=s").code == 0
    root = Path("outputs")
    runs = [p["run"] for p in json.loads((root / "sweeps/s/sweep.json").read_text())["points"]]
    RunDir.of(root, runs[1]).end("failed", "out of luck")
    sights = sweep_status(root / "sweeps" / "s")
    console = Console(width=120)
    with console.capture() as captured:
        console.print(view(sights, "s", rows=1))
    text = captured.get()
    assert "s: 2 points  1 failed  1 done" in text
    assert "beta 0.3: failed: out of luck" in text
    assert "... and 1 more" in text
    assert "3/3" in text


def test_time_left() -> None:
    def at(status: str, step: int, seconds: float, before: int = 0) -> Any:
        return SimpleNamespace(status=status, step=step, steps=100, seconds=seconds, before=before)

    assert seconds_left([at("running", 50, 10, before=30), at("queued", 0, 0)]) == 150 / 2, "resumed at step 30"
    assert seconds_left([at("running", 50, 0)]) == 0, "by another machine's clock it has not begun yet"
    assert seconds_left([at("done", 100, 10), at("running", 50, 10), at("queued", 0, 0)]) == 150 / 5
    assert seconds_left([at("running", 50, 10), at("running", 20, 10)]) == 130 / 7
    assert seconds_left([at("queued", 0, 0), at("running", 0, 3)]) == 0
