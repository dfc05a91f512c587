"""Points as jobs of submitit's local executor, and of a SLURM that a few scripts imitate."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from alignlab.runs.directory import RunDir
from tests.lab_runs import LAB
from tests.sweep.launchers.test_local_pool import eventually, running, states, table

pytest.importorskip("submitit", reason='pip install "alignlab[slurm]"')

Run = Callable[..., Any]
STEADY = [*LAB, "trainer.max_steps=60"]
# Long enough to send a signal to a run at its eighth update.
SWEEP = [*STEADY, "trainer.max_steps=300", "-m", "objective.beta=0.1,0.3", "sweep.name=s"]

# sbatch starts all jobs of the array at once. It starts a job again if the job asked for it (scontrol).
SBATCH = """#!/usr/bin/env python3
import os, re, subprocess, sys
script = open(sys.argv[1]).read()
root = os.environ["FAKE_SLURM"]
job = 100 + len([f for f in os.listdir(root) if f.endswith(".sbatch")])
open(f"{root}/{job}.sbatch", "w").write(script)
array = re.search(r"--array=0-(\\d+)", script)
for task in range(int(array[1]) + 1) if array else [None]:
    name = f"{job}_{task}" if array else str(job)
    ids = {"SLURM_JOB_ID": str(job), "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_PROCID": "0",
           "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NAME": "alignlab"}
    if array:
        ids |= {"SLURM_ARRAY_JOB_ID": str(job), "SLURM_ARRAY_TASK_ID": str(task)}
    loop = f'''
        while true; do
            rm -f {root}/{name}.requeue; echo RUNNING > {root}/{name}.state
            bash {root}/{job}.sbatch; code=$?
            [ -e {root}/{name}.requeue ] || break
        done
        [ $code = 0 ] && echo COMPLETED > {root}/{name}.state || echo FAILED > {root}/{name}.state'''
    subprocess.Popen(["bash", "-c", loop], env={**os.environ, **ids}, start_new_session=True,
                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(f"Submitted batch job {job}")
"""
SRUN = """#!/usr/bin/env python3
import os, sys
options = {"--output": 1, "--error": 2}
args = sys.argv[1:]
ids = {"%A": "SLURM_ARRAY_JOB_ID", "%a": "SLURM_ARRAY_TASK_ID", "%j": "SLURM_JOB_ID", "%t": "SLURM_PROCID"}
while args[0].startswith("--"):
    option = args.pop(0)
    if option in options:
        name = args.pop(0)
        for mark, variable in ids.items():
            name = name.replace(mark, os.environ.get(variable, ""))
        os.dup2(os.open(name, os.O_CREAT | os.O_APPEND | os.O_WRONLY), options[option])
os.execvp(args[0], args)
"""
SACCT = """#!/bin/sh
echo "JobID|State|NodeList"
for f in $FAKE_SLURM/*.state; do echo "$(basename $f .state)|$(cat $f)|here"; done
"""
SCONTROL = """#!/bin/sh
[ "$1" = requeue ] && touch $FAKE_SLURM/$2.requeue
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of an imitated SLURM on the PATH: batch scripts, states, and requests to be queued again."""
    programs, root = tmp_path / "bin", tmp_path / "slurm"
    programs.mkdir()
    root.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "scontrol": SCONTROL}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setenv("FAKE_SLURM", str(root))
    return root


def interfere(id: str, step: int, number: int) -> threading.Thread:
    """Send a signal to the process of a run once it has reached a step."""
    thread = threading.Thread(
        target=lambda: os.kill(eventually(lambda: running(Path("outputs"), id, step), 500), number)
    )
    thread.start()
    return thread


def points(root: str) -> list[str]:
    return [point["run"] for point in json.loads(Path(root, "sweeps/s/sweep.json").read_text())["points"]]


def same(root: str, other: str) -> None:
    pd.testing.assert_frame_equal(table(Path(root), "s"), table(Path(other), "s"))


@pytest.mark.slow
def test_a_dry_run_in_which_a_job_is_preempted_and_another_killed(alignlab: Run) -> None:
    """A preempted job saves its state, is queued again by submitit and resumes. A killed job is submitted again."""
    assert alignlab("train", *SWEEP, "output_root=whole", "launcher=serial").code == 0
    preempted, killed = points("whole")
    threads = [interfere(preempted, 8, signal.SIGUSR2), interfere(killed, 8, signal.SIGKILL)]
    result = alignlab("train", *SWEEP, "launcher=slurm", "launcher.cluster=local", "launcher.cpus=1")
    [thread.join() for thread in threads]
    assert result.code == 0, result.err
    same("outputs", "whole")
    first, second = states(Path("outputs"), "s")
    assert [(a["status"], a["reason"]) for a in first["attempts"]] == [("interrupted", "stopped by a signal")]
    assert "its process ended with no result" in second["attempts"][0]["reason"]
    log = RunDir.of("outputs", preempted).log.read_text()
    assert "resuming" in log, "its state was saved when the signal came: checkpoint_every is off"
    assert (first["machine"]["threads"], first["attempt"], second["attempt"]) == (1, 2, 2)
    assert len(list(Path("outputs/runs").glob("sft-*/run.json"))) == 1
    assert first["pid"] != os.getpid()


@pytest.mark.slow
def test_slurm_queues_again_what_runs_into_its_limit(alignlab: Run, slurm: Path) -> None:
    """The batch scripts run as in SLURM, parents first. After SIGTERM (a warning) a run saves and continues."""
    assert alignlab("train", *SWEEP, "output_root=whole", "launcher=serial").code == 0
    warned, limited = points("whole")
    threads = [interfere(warned, 8, signal.SIGTERM), interfere(limited, 8, signal.SIGUSR2)]
    options = [
        "launcher.partition=gpu",
        "launcher.account=lab",
        "launcher.sbatch=['mail-user=me',--exclusive]",
        "launcher.cpus=1",
    ]
    options += ["launcher.memory_gb=32", "launcher.setup=['module load cuda']", "launcher.minutes=90"]
    result = alignlab("train", *SWEEP, "launcher=slurm", *options)
    [thread.join() for thread in threads]
    assert result.code == 0, result.err
    same("outputs", "whole")
    assert [s["attempt"] for s in states(Path("outputs"), "s")] == [1, 2]
    parent, array = (file.read_text() for file in sorted(slurm.glob("*.sbatch")))
    assert "--array" not in parent
    flags = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", array, re.M))
    assert flags.pop("output").startswith(str(Path("outputs").resolve()))
    assert flags.pop("error")
    assert flags == {
        "account": "lab", "array": "0-1%2", "cpus-per-task": "1", "exclusive": "", "gpus-per-node": "1",
        "job-name": "alignlab",
        "mail-user": "me", "mem": "32GB", "nodes": "1", "open-mode": "append",
        "partition": "gpu", "requeue": "", "signal": "USR2@300", "time": "90", "wckey": "submitit",
    }  # fmt: skip
    assert "\nmodule load cuda\n" in array
    assert re.search(rf"^srun .* {re.escape(sys.executable)} -u -m submitit", array, re.M)


@pytest.mark.slow
def test_submitits_own_hydra_launcher_keeps_the_records(alignlab: Run) -> None:
    """Hydra's launcher raises if a job is killed, and loses the results of the others. Their records keep them."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    assert alignlab("train", *SWEEP, "output_root=whole", "launcher=serial").code == 0
    first, _ = points("whole")
    killer = interfere(first, 8, signal.SIGKILL)
    result = alignlab("train", *SWEEP, "launcher=submitit_local")
    killer.join()
    assert result.code == 3
    assert "the launcher ended early" in result.err
    eventually(lambda: states(Path("outputs"), "s")[1]["status"] == "done")
    assert alignlab("train", *SWEEP, "launcher=serial").code == 0
    same("outputs", "whole")


def test_without_slurm_nothing_is_started(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    result = alignlab("train", *SWEEP, "launcher=slurm", "launcher.minutes=2", "launcher.gpus=-1")
    assert result.code == 2
    for said in ("there is no SLURM here", "launcher.cluster=local", "launcher.gpus = -1", "less than the limit of 2"):
        assert said in result.err
    monkeypatch.setattr("alignlab.checks.importlib.util.find_spec", lambda name: None)
    assert 'pip install "alignlab[slurm]"' in alignlab("train", *SWEEP, "launcher=slurm").err
    assert not Path("outputs").exists()
