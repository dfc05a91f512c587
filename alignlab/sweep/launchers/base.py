"""How points of a sweep are run: the interface of our launchers, which Hydra knows as plugins."""

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

if TYPE_CHECKING:  # Hydra imports its plugins, and with them this, in every application of the environment
    from alignlab.sweep.tasks import OnFinished, RunTask, Task

log = logging.getLogger(__name__)


class PointLauncher(Launcher):
    """Runs tasks of a sweep. What comes of them stands in the ledger: a launcher returns nothing and loses nothing."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader = hydra_context.config_loader
        self.hydra = config.hydra

    def check(self, points: Sequence[RunTask]) -> None:
        """Raise ConfigError where a sweep's points can't be run this way; called before anything is started."""

    @contextmanager
    def session(self, points: Sequence[RunTask]) -> Iterator[None]:
        """Around all that points need and the points themselves: what serves the whole of a sweep is kept here."""
        yield

    @abstractmethod
    def run(self, tasks: Sequence[Task], on_finished: OnFinished) -> None:
        """Run tasks that do not need each other; `on_finished` is called with the name of each that has ended.

        Raises KeyboardInterrupt after a signal, when what was running has saved its state.
        """

    def width(self) -> int:
        """How many points it runs at a time, as far as that is known before."""
        return 1

    def runs_in_subprocesses(self, points: Sequence[RunTask]) -> bool:
        """Whether points, and what they start from, are run in other processes: the terminal shows what all of them do,
        instead of the bars of one."""
        return False

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra's way, for sweepers that know jobs only: their points are checked, prepared and run as a sweep's."""
        from alignlab.config.composer import Composer
        from alignlab.config.points import plan_points
        from alignlab.sweep.tasks import RunTask

        composer = Composer(self.loader, self.hydra.job.config_name, self.hydra.overrides.hydra)
        configs = [composer.compose(job)[0] for job in job_overrides]
        plans = plan_points(composer, job_overrides)
        points = [RunTask(p, p.train.sweep.name, tuple(job)) for p, job in zip(plans, job_overrides, strict=True)]
        run_points(points, self, lambda name: None)
        return [
            _as_hydra_wants_it(point.run.state(), config, job)
            for point, config, job in zip(points, configs, job_overrides, strict=True)
        ]


def run_points(points: Sequence[RunTask], launcher: PointLauncher, on_finished: OnFinished) -> None:
    """Everything that the points need, then the points themselves, each of them once."""
    from alignlab.sweep.tasks import orphans, preparations

    with launcher.session(points):
        for wave in preparations(points):
            log.info("first, once for all points: %s", ", ".join(name for task in wave for name in task.names))
            launcher.run(wave, lambda name: None)
        lost = orphans(points)
        for name in lost:
            on_finished(name)
        launcher.run(list({point.name: point for point in points if point.name not in lost}.values()), on_finished)


def _as_hydra_wants_it(state: dict[str, Any], config: DictConfig, job: Sequence[str]) -> JobReturn:
    done = state.get("status") == "done"
    result = JobReturn(overrides=list(job), cfg=config, status=JobStatus.COMPLETED if done else JobStatus.FAILED)
    result.return_value = state if done else RuntimeError(f"{state.get('status')}: {state.get('reason')}")
    return result
