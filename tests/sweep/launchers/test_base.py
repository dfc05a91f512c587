"""Launchers give each point as many GPUs as it computes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignlab.errors import ConfigError
from alignlab.sweep.launchers.base import refuse_other_gpus
from alignlab.sweep.launchers.local import LocalLauncher
from alignlab.sweep.launchers.slurm import SlurmLauncher

Run = Callable[..., Any]


def points(*devices: int) -> Any:
    trainers = [SimpleNamespace(devices=number) for number in devices]
    return [SimpleNamespace(plan=SimpleNamespace(train=SimpleNamespace(trainer=trainer))) for trainer in trainers]


@pytest.mark.parametrize(
    ("devices", "gpus", "said"),
    [
        ([1], 2, "launcher.gpus=1   or   trainer.devices=2"),
        ([2], 1, "launcher.gpus=2   or   trainer.devices=1"),
        ([1, 4], 4, "launcher.gpus=1   or   trainer.devices=4"),
        ([2], 0.5, "launcher.gpus=2"),
        ([1], 1.5, "launcher.gpus=1"),
    ],
)
def test_other_gpus_are_refused(devices: list[int], gpus: float, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_other_gpus(points(*devices), gpus)
    (problem,) = caught.value.problems
    assert (problem.key, problem.value, problem.type_this) == ("launcher.gpus", gpus, said)


@pytest.mark.parametrize(("devices", "gpus"), [(1, 1), (1, 0.5), (4, 4), (1, 0), (2, 0)])
def test_the_same_number_is_not(devices: int, gpus: float) -> None:
    """Without GPUs points compute on CPUs, in any number of processes."""
    refuse_other_gpus(points(devices), gpus)


def test_launchers_look_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignlab.sweep.launchers.slurm_pool.problems_of", lambda limits: [])
    with pytest.raises(ConfigError, match="computes on 1 device"):
        SlurmLauncher(gpus=2).check(points(1))
    with pytest.raises(ConfigError, match="shares none of them"):
        LocalLauncher(per_gpu=2).check(points(1, 2))
    LocalLauncher(per_gpu=2).check(points(1))


SWEEP = ["experiment=lab_dpo", "sweep=dpo_beta", "trainer.devices=2"]
SLURM = ["launcher=slurm", "launcher.cluster=local", "launcher.partition=gpu", "launcher.minutes=240"]
RAY = ["launcher=ray", "launcher.address=head:6379"]


@pytest.mark.parametrize(("launcher", "package"), [(SLURM, "submitit"), (RAY, "ray")])
def test_a_config_of_a_cluster_is_checked_without_one(launcher: list[str], package: str, alignlab: Run) -> None:
    """`alignlab check` tries the options of a launcher, and starts, reaches and writes nothing."""
    pytest.importorskip(package)
    found = alignlab("check", *SWEEP, *launcher, "launcher.gpus=2")
    assert (found.code, "dpo-" in found.out) == (0, True), found.err
    wrong = alignlab("check", *SWEEP, *launcher, "launcher.gpus=1", "launcher.retries=-1")
    assert wrong.code == 2
    assert "launcher.retries = -1" in wrong.err
    unknown = alignlab("check", *SWEEP, *launcher, "launcher.gpu=2")
    assert (unknown.code, "type: launcher.gpus=2" in unknown.err) == (2, True)
    other = alignlab("check", *SWEEP, *launcher, "launcher.gpus=1")
    assert (other.code, "launcher.gpus=2   or   trainer.devices=1" in other.err) == (2, True)
    assert not Path("outputs").exists()
