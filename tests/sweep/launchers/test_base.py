"""Launchers give each point as many GPUs as it computes on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from alignlab.errors import ConfigError
from alignlab.sweep.launchers.base import refuse_other_gpus
from alignlab.sweep.launchers.local import LocalLauncher
from alignlab.sweep.launchers.slurm import SlurmLauncher


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
