"""Twenty runs of which some are killed, and their command too: nothing is lost, and nothing is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignlab.integrity import sha256_of, write_sealed
from alignlab.runs.directory import RunDir
from tests.stress.sweep import POINT, Kill, Outcome, faults, stress

Run = Callable[..., Any]


@pytest.mark.slow
def test_twenty_runs_and_three_kills(alignlab: Run, tmp_path: Path) -> None:
    outcome = stress(tmp_path, points=20, kills=3, commands=1)
    assert list(faults(tmp_path, outcome, points=20, kills=3)) == [], (tmp_path / "stress.log").read_text()[-3000:]
    assert [kill.command for kill in outcome.kills].count(True) == 1
    assert outcome.codes == [-9, 0]
    assert outcome.memory
    killed = next(kill.run for kill in outcome.kills if not kill.command)
    run = RunDir.of("outputs", killed)
    seed = run.record()["config"]["seed"]
    assert alignlab("train", *POINT, f"seed={seed}", "output_root=calm").code == 0
    calm = RunDir.of("calm", killed)
    assert sha256_of(run.policy / "model.safetensors") == sha256_of(calm.policy / "model.safetensors")


def test_faults_are_found(tmp_path: Path) -> None:
    """Each way in which a sweep can be wrong is told, so that an empty list means something."""
    attempt = {"attempt": 1, "status": "interrupted", "pid": 7}
    for name, pid in (("ipo-1", 7), ("ipo-2", 8)):
        run = RunDir.of(tmp_path / "outputs", name)
        write_sealed(run.record_file, {"status": "done", "attempt": 2, "attempts": [{**attempt, "pid": pid}]})
    sweep = {"points": [{"run": "ipo-1"}, {"run": "ipo-2"}]}
    write_sealed(tmp_path / "outputs/sweeps/stress/sweep.json", sweep)
    good = Outcome(codes=[-9, 0], kills=[Kill("ipo-1", 7, False), Kill("ipo-2", 1, True)])
    good.memory, good.descriptors = [(1e8, 1.05e8)], [(20, 22)]

    def found(outcome: Outcome = good, points: int = 2) -> str:
        return "; ".join(faults(tmp_path, outcome, points=points, kills=2))

    assert found() == ""
    assert found(points=3) == "2 of 3 runs are done"
    wrong = Outcome(codes=[3], kills=[Kill("ipo-1", 9, False), Kill("ipo-2", 1, True)])
    wrong.memory, wrong.descriptors = [(1e8, 2e8)], [(20, 40)]
    assert "ended with 3" in found(wrong)
    assert "the process 9 was killed, and its attempts are those of [7]" in found(wrong)
    assert "grew from 100 to 200 MB" in found(wrong)
    assert "descriptors of a command grew from 20 to 40" in found(wrong)
    run = RunDir.of(tmp_path / "outputs", "ipo-1")
    run.checkpoint.parent.mkdir()
    run.checkpoint.touch()
    (run.path / "run.json.tmp").touch()
    assert "last.ckpt is left of a run that is done" in found()
    assert "run.json.tmp is left" in found()
    record = json.loads(run.record_file.read_text())
    write_sealed(run.record_file, {**record, "attempt": 4})
    assert "and the last one is 4" in found()
