"""Runs points as jobs of a SLURM array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alignlab.errors import ConfigError
from alignlab.spelling import as_typed, counted
from alignlab.sweep.launchers.base import PointLauncher, refuse_other_gpus

if TYPE_CHECKING:  # Hydra imports plugins, and so this file, in every Hydra application of the environment
    from alignlab.sweep.tasks import OnFinished, RunTask, Task


@dataclass
class SlurmLauncherConf:
    """hydra/launcher=slurm: each point, and each parent of points, is a job of a SLURM array (by submitit).

    cluster:        slurm; or local, which runs the same jobs as processes of this machine, all at once, to try them.
    at_once:        largest number of jobs of the array that run at a time.
    gpus:           GPUs for each job, as many as `trainer.devices` of its run. 0: it computes on CPUs.
    cpus:           CPUs for each job, which computes with as many threads in all.
    memory_gb:      memory for each job (GB); null: SLURM's default.
    minutes:        time limit of a job. Shortly before it, the run saves its state and the job is queued again.
    notice_seconds: how long before the time limit SLURM sends a signal. One update and saving must fit into this time.
    requeues:       how often a job may reach its time limit.
    retries:        how often a job is submitted again after it was lost (killed, node down).
    partition, account, qos, constraint: the options of sbatch with these names.
    sbatch:         further options of sbatch, without their dashes: ["mail-user=me", exclusive].
    setup:          shell commands that run before the job.
    """

    _target_: str = "hydra_plugins.alignlab_plugins.launchers.SlurmLauncher"
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


# Options of the launcher that are not those of a single job.
_ABOUT_JOBS = ("cluster", "at_once")


class SlurmLauncher(PointLauncher):
    """One SLURM job for each point."""

    def __init__(self, **limits: Any) -> None:
        from alignlab.sweep.launchers.slurm_pool import problems_of

        problems = list(problems_of(limits))
        if problems:
            raise ConfigError(problems)
        self.limits = limits

    def check(self, points: Sequence[RunTask]) -> None:
        refuse_other_gpus(points, self.limits["gpus"])

    def description(self, points: Sequence[RunTask]) -> str:
        from alignlab.sweep.tasks import preparations

        limits = self.limits
        before = sum(map(len, preparations(points)))
        jobs = [f"{counted(before, 'job')} for what the points need"] if before else []
        jobs.append(f"{counted(sum(not point.is_finished() for point in points), 'job')} for the points")
        if limits["cluster"] == "local":
            where = "processes of this machine instead of an array, all at once"
        else:
            where = f"an array of SLURM, at most {limits['at_once']} at a time"
        given = {name: value for name, value in limits.items() if name not in _ABOUT_JOBS and value not in (None, [])}
        each = ", ".join(f"{name}={as_typed(value)}" for name, value in given.items())
        return f"launcher=slurm: {', then '.join(jobs)}, as {where}\n    each job: {each}"

    def run(self, tasks: Sequence[Task], on_finished: OnFinished) -> None:
        from alignlab.sweep.launchers.slurm_pool import SlurmPool

        SlurmPool(**self.limits).run(tasks, on_finished)

    def runs_in_subprocesses(self, points: Sequence[RunTask]) -> bool:
        return True

    def width(self) -> int:
        return int(self.limits["at_once"])
