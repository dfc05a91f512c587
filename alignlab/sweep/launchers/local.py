"""Runs points in several processes of this machine, one point at a time in each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignlab.checks import at_least
from alignlab.errors import ConfigError, Problem
from alignlab.sweep.launchers.base import PointLauncher
from alignlab.sweep.launchers.host import slots

if TYPE_CHECKING:  # Hydra imports plugins, and so this file, in every Hydra application of the environment
    from alignlab.sweep.tasks import OnFinished, RunTask, Task


@dataclass
class LocalLauncherConf:
    """hydra/launcher=local: several processes, each with one point at a time.

    at_once: largest number of points at a time. 0: per_gpu for each free GPU or, without GPUs, one for each core, as
             far as memory suffices. A point with several `trainer.devices` has as many GPUs or cores.
    per_gpu: number of points that share a GPU.
    retries: how often a point is tried again if its process was killed or ran out of memory. After a lack of memory it
             is tried with half the micro-batch.
    """

    _target_: str = "hydra_plugins.alignlab_plugins.launchers.LocalLauncher"
    at_once: int = 0
    per_gpu: int = 1
    retries: int = 1


class LocalLauncher(PointLauncher):
    """One process for each point."""

    def __init__(self, at_once: int = 0, per_gpu: int = 1, retries: int = 1) -> None:
        problems = [
            *at_least("launcher.at_once", at_once, 0, example=2, hint="0: as many as there is room for"),
            *at_least("launcher.per_gpu", per_gpu, 1, example=1),
            *at_least("launcher.retries", retries, 0, example=1),
        ]
        if problems:
            raise ConfigError(problems)
        self.limits: dict[str, Any] = {"at_once": at_once, "per_gpu": per_gpu, "retries": retries}

    def check(self, points: Sequence[RunTask]) -> None:
        devices = max(point.plan.train.trainer.devices for point in points)
        if devices > 1 and self.limits["per_gpu"] > 1:
            text = f"a point that computes on {devices} devices shares none of them with another"
            raise ConfigError([Problem("launcher.per_gpu", self.limits["per_gpu"], text, "launcher.per_gpu=1")])

    def run(self, tasks: Sequence[Task], on_finished: OnFinished) -> None:
        from alignlab.sweep.launchers.local_pool import Pool
        from alignlab.sweep.tasks import processes_of

        with Pool(len(tasks), devices=max(map(processes_of, tasks), default=1), **self.limits) as pool:
            pool.run(tasks, on_finished)

    def runs_in_subprocesses(self, points: Sequence[RunTask]) -> bool:
        return True

    def width(self) -> int:
        return len(slots(sys.maxsize, self.limits["at_once"], self.limits["per_gpu"]))
