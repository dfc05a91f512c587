"""Runs points as Ray tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignlab.checks import at_least, installed, positive
from alignlab.errors import ConfigError
from alignlab.sweep.launchers.base import PointLauncher, refuse_other_gpus

if TYPE_CHECKING:  # Hydra imports plugins, and so this file, in every Hydra application of the environment
    from alignlab.sweep.tasks import OnFinished, RunTask, Task


@dataclass
class RayLauncherConf:
    """hydra/launcher=ray: points on a Ray cluster, or on a Ray that is started on this machine.

    address: a running Ray (host:port, or auto for one that `ray start` started on this machine). Empty: start a Ray
             that listens on loopback only and ends with the sweep.
    at_once: largest number of points at a time. 0: as many as there are resources for.
    cpus:    CPUs for each point, which computes with as many threads in all. Fractions are allowed.
    gpus:    GPUs for each point, as many as its `trainer.devices`. With 0.5 two points share a GPU.
    retries: how often a point is tried again if its worker or node was lost.
    """

    _target_: str = "hydra_plugins.alignlab_plugins.launchers.RayLauncher"
    address: str = ""
    at_once: int = 0
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 1


class RayLauncher(PointLauncher):
    """One Ray task for each point."""

    def __init__(self, **limits: Any) -> None:
        problems = [
            *installed("launcher", "ray", "ray", extra="ray"),
            *at_least("launcher.at_once", limits["at_once"], 0, example=4),
            *positive("launcher.cpus", limits["cpus"], example=1),
            *at_least("launcher.gpus", limits["gpus"], 0, example=0.5),
            *at_least("launcher.retries", limits["retries"], 0, example=1),
        ]
        if problems:
            raise ConfigError(problems)
        self.limits = limits

    def check(self, points: Sequence[RunTask]) -> None:
        refuse_other_gpus(points, self.limits["gpus"])

    def run(self, tasks: Sequence[Task], on_finished: OnFinished) -> None:
        self._pool().run(tasks, on_finished)

    def runs_in_subprocesses(self, points: Sequence[RunTask]) -> bool:
        return True

    def width(self) -> int:
        return self._pool().width()

    def _pool(self) -> Any:
        from alignlab.sweep.launchers.ray_pool import RayPool

        return RayPool(**self.limits)
