"""The interface of launchers, which run the points of a sweep. Hydra knows them as plugins."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from alignlab.errors import ConfigError, Problem
from alignlab.spelling import counted

if TYPE_CHECKING:  # Hydra imports plugins, and so this file, in every Hydra application of the environment
    from alignlab.sweep.tasks import OnFinished, RunTask, Task

log = logging.getLogger(__name__)


class PointLauncher(Launcher):
    """Runs tasks of a sweep. Results are in the run directories, so a launcher returns nothing and can lose nothing."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader = hydra_context.config_loader
        self.hydra = config.hydra

    def check(self, points: Sequence[RunTask]) -> None:
        """Raise ConfigError if this launcher can't run the points. It is called before anything starts."""

    def description(self, points: Sequence[RunTask]) -> str:
        """What this launcher would start, as `alignlab check` shows it; empty if there is nothing to say."""
        return ""

    @contextmanager
    def session(self, points: Sequence[RunTask]) -> Iterator[None]:
        """Encloses the preparations of a sweep and its points. Holds resources, such as processes, for all of them."""
        yield

    @abstractmethod
    def run(self, tasks: Sequence[Task], on_finished: OnFinished) -> None:
        """Run tasks that do not depend on each other. Calls `on_finished` with the name of each run that has ended.

        Raises KeyboardInterrupt after a signal, once the running tasks have saved their state.
        """

    def width(self) -> int:
        """How many points run at a time, as far as this is known before the sweep starts."""
        return 1

    def runs_in_subprocesses(self, points: Sequence[RunTask]) -> bool:
        """Whether all points and their parents run in other processes.

        If so, the terminal shows a table of all of them. If not, it shows the progress bar of the one that runs.
        """
        return False

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra's interface, for other sweepers: their jobs are checked, prepared and run as points of a sweep."""
        from alignlab.config.composer import Composer
        from alignlab.config.points import plan_points
        from alignlab.sweep.tasks import RunTask

        composer = Composer(self.loader, self.hydra.job.config_name, self.hydra.overrides.hydra)
        configs = [composer.compose(job)[0] for job in job_overrides]
        plans = plan_points(composer, job_overrides)
        points = [RunTask(p, p.train.sweep.name, tuple(job)) for p, job in zip(plans, job_overrides, strict=True)]
        run_points(points, self, lambda name: None)
        return [
            _hydra_result(point.run.state(), config, job)
            for point, config, job in zip(points, configs, job_overrides, strict=True)
        ]


def refuse_other_gpus(points: Sequence[RunTask], gpus: float) -> None:
    """Raise ConfigError if a launcher gives points another number of GPUs than they compute on.

    gpus: GPUs of each point. 0: the points compute on CPUs, with any number of processes.
    """
    devices = sorted({point.plan.train.trainer.devices for point in points})
    wrong = [number for number in devices if gpus and max(number, gpus) > 1 and number != gpus]
    if wrong:
        text = f"each point computes on {counted(wrong[0], 'device')} (trainer.devices={wrong[0]})"
        other = f"   or   trainer.devices={gpus:g}" if gpus == int(gpus) else ""
        raise ConfigError([Problem("launcher.gpus", gpus, text, f"launcher.gpus={wrong[0]}{other}")])


def run_points(points: Sequence[RunTask], launcher: PointLauncher, on_finished: OnFinished) -> None:
    """Run everything that the points need, then each point once."""
    from alignlab.sweep.tasks import blocked_points, preparations

    with launcher.session(points):
        for wave in preparations(points):
            log.info("first the runs that the points need: %s", ", ".join(name for task in wave for name in task.names))
            launcher.run(wave, lambda name: None)
        without_parent = blocked_points(points)
        for name in without_parent:
            on_finished(name)
        ready = {point.name: point for point in points if point.name not in without_parent}
        launcher.run(list(ready.values()), on_finished)


def _hydra_result(state: dict[str, Any], config: DictConfig, job: Sequence[str]) -> JobReturn:
    done = state.get("status") == "done"
    result = JobReturn(overrides=list(job), cfg=config, status=JobStatus.COMPLETED if done else JobStatus.FAILED)
    result.return_value = state if done else RuntimeError(f"{state.get('status')}: {state.get('reason')}")
    return result
