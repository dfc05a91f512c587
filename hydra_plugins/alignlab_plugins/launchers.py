"""Our launchers as Hydra knows them: auto, serial, vectorized, local, ray and slurm. See docs/launchers.md.

Annotations here are not postponed: Hydra runs plugin modules before it registers them, and dataclasses could not
resolve them.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from alignlab.checks import at_least, installed, positive
from alignlab.errors import ConfigError
from alignlab.training import launch
from alignlab.training.launch import PointLauncher, Told

_PLUGINS = "hydra_plugins.alignlab_plugins.launchers"


@dataclass
class AutoLauncherConf:
    """hydra/launcher=auto, the default: vectorized for tiny models, on all GPUs where there are several, on all cores
    for small models with much to do, else serial."""

    _target_: str = f"{_PLUGINS}.AutoLauncher"


@dataclass
class StackedLauncherConf:
    """hydra/launcher=vectorized: points that differ only in numbers as one model; refused where that is not exact."""

    _target_: str = f"{_PLUGINS}.StackedLauncher"


@dataclass
class HereLauncherConf:
    """hydra/launcher=serial: points one after another, in this process."""

    _target_: str = f"{_PLUGINS}.HereLauncher"


@dataclass
class LocalLauncherConf:
    """hydra/launcher=local: several processes, each with one point at a time.

    at_once: most points at a time; 0 takes one for each free GPU (times per_gpu) or, without GPUs, one for each core,
             as far as memory suffices.
    per_gpu: points that share a GPU.
    retries: how often a point is tried again whose process was killed; after running out of memory with half the
             micro-batch.
    """

    _target_: str = f"{_PLUGINS}.LocalLauncher"
    at_once: int = 0
    per_gpu: int = 1
    retries: int = 1


@dataclass
class RayLauncherConf:
    """hydra/launcher=ray: points on a Ray, which is started on this machine or runs at `address`.

    address: of a running Ray (host:port, or auto for the one that `ray start` left on this machine); empty starts one
             that listens on loopback only and ends with the sweep.
    at_once: most points at a time; 0: as many as there are resources for.
    cpus:    of a point; it computes with as many threads. Fractions are allowed.
    gpus:    of a point; 0.5 puts two on one GPU.
    retries: how often a point is tried again whose worker or node was lost.
    """

    _target_: str = f"{_PLUGINS}.RayLauncher"
    address: str = ""
    at_once: int = 0
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 1


@dataclass
class SlurmLauncherConf:
    """hydra/launcher=slurm: every point, and what points start from, a job of a SLURM array, by submitit.

    cluster:        slurm, or local: the same jobs as processes of this machine, all at once, for a dry run.
    at_once:        most jobs of the array at a time.
    gpus:           of a job.
    cpus:           of a job; it computes with as many threads.
    memory_gb:      of a job; null leaves it to SLURM.
    minutes:        time limit of a job; before it, the state is saved and the job queued again.
    notice_seconds: how long before the limit SLURM sends the signal: time for one update and to save its state.
    requeues:       how often a job may run into its limit.
    retries:        how often a job is submitted again that was lost (killed, node down).
    partition, account, qos, constraint: as sbatch has them.
    sbatch:         further options of sbatch, without their dashes: ["mail-user=me", exclusive].
    setup:          shell commands before the job.
    """

    _target_: str = f"{_PLUGINS}.SlurmLauncher"
    cluster: str = "slurm"
    at_once: int = 64
    gpus: int = 1
    cpus: int = 4
    memory_gb: int | None = None
    minutes: int = 720
    notice_seconds: int = 300
    requeues: int = 100
    retries: int = 1
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    sbatch: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)


class AutoLauncher(launch.AutoLauncher):
    """What suits the points and the machine."""


class StackedLauncher(launch.StackedLauncher):
    """Points that differ only in numbers as one model."""


class HereLauncher(launch.HereLauncher):
    """One after another, in this process."""


class LocalLauncher(PointLauncher):
    """One process for each point."""

    def __init__(self, at_once: int = 0, per_gpu: int = 1, retries: int = 1) -> None:
        self.limits: dict[str, Any] = {"at_once": at_once, "per_gpu": per_gpu, "retries": retries}

    def check(self, points: Sequence[Any]) -> None:
        problems = [
            *at_least("launcher.at_once", self.limits["at_once"], 0, example=2, hint="0: as many as there is room for"),
            *at_least("launcher.per_gpu", self.limits["per_gpu"], 1, example=1),
            *at_least("launcher.retries", self.limits["retries"], 0, example=1),
        ]
        if problems:
            raise ConfigError(problems)

    def run(self, tasks: Sequence[Any], told: Told) -> None:
        from alignlab.training.pool import Pool

        with Pool(len(tasks), **self.limits) as pool:
            pool.run(tasks, told)

    def out_of_process(self, points: Sequence[Any]) -> bool:
        return True

    def width(self) -> int:
        from alignlab.training.pool import slots

        return len(slots(sys.maxsize, self.limits["at_once"], self.limits["per_gpu"]))


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

    def run(self, tasks: Sequence[Any], told: Told) -> None:
        self._pool().run(tasks, told)

    def out_of_process(self, points: Sequence[Any]) -> bool:
        return True

    def width(self) -> int:
        return self._pool().width()

    def _pool(self) -> Any:
        from alignlab.training.ray_pool import RayPool

        return RayPool(**self.limits)


class SlurmLauncher(PointLauncher):
    """One SLURM job for each point."""

    def __init__(self, **limits: Any) -> None:
        from alignlab.training.slurm_pool import problems_of

        problems = list(problems_of(limits))
        if problems:
            raise ConfigError(problems)
        self.limits = limits

    def run(self, tasks: Sequence[Any], told: Told) -> None:
        from alignlab.training.slurm_pool import SlurmPool

        SlurmPool(**self.limits).run(tasks, told)

    def out_of_process(self, points: Sequence[Any]) -> bool:
        return True

    def width(self) -> int:
        return int(self.limits["at_once"])


_LAUNCHERS: dict[str, type] = {
    "auto": AutoLauncherConf, "serial": HereLauncherConf, "vectorized": StackedLauncherConf, "local": LocalLauncherConf,
    "ray": RayLauncherConf, "slurm": SlurmLauncherConf,
}  # fmt: skip
for name, conf in _LAUNCHERS.items():
    ConfigStore.instance().store(group="hydra/launcher", name=name, node=conf, provider="alignlab")
