"""How points of a sweep are run: the interface of our launchers, which Hydra knows as plugins."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:  # Hydra imports its plugins, and with them this, in every application of the environment
    from alignlab.training.tasks import Task

Told = Callable[[str], None]


class PointLauncher(Launcher):
    """Runs tasks of a sweep. What comes of them stands in the ledger: a launcher returns nothing and loses nothing."""

    # Several points at a time: the terminal shows all of them, instead of the bars of one.
    at_once = False

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader = hydra_context.config_loader
        self.hydra = config.hydra

    @abstractmethod
    def run(self, tasks: Sequence[Task], told: Told) -> None:
        """Run tasks that do not need each other; `told` is called with the name of each that has ended.

        Raises KeyboardInterrupt after a signal, when what was running has saved its state.
        """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra's way, for sweepers that know jobs only: their points are checked, prepared and run as a sweep's."""
        from alignlab.config.composer import Composer
        from alignlab.config.points import plan_points
        from alignlab.training.sweep import run_points
        from alignlab.training.tasks import RunTask

        composer = Composer(self.loader, self.hydra.job.config_name, self.hydra.overrides.hydra)
        configs = [composer.compose(job)[0] for job in job_overrides]
        plans = plan_points(composer, job_overrides)
        points = [RunTask(p, p.train.sweep.name, tuple(job)) for p, job in zip(plans, job_overrides, strict=True)]
        run_points(points, self, lambda name: None)
        return [
            _as_hydra_wants_it(point.run.state(), config, job)
            for point, config, job in zip(points, configs, job_overrides, strict=True)
        ]


class HereLauncher(PointLauncher):
    """One after another, in this process: imports, compiled layers and caches serve all of them."""

    def run(self, tasks: Sequence[Task], told: Told) -> None:
        for task in tasks:
            task()
            told(task.name)


def ours(launcher: Launcher) -> PointLauncher | None:
    """The launcher, where it is one of ours; in the place of Hydra's default, ours; None for anybody else's.

    The default is not ours by config: what a config's defaults list overrides, no preset or experiment could choose.
    """
    if isinstance(launcher, BasicLauncher):
        return HereLauncher()
    return launcher if isinstance(launcher, PointLauncher) else None


def _as_hydra_wants_it(state: dict[str, Any], config: DictConfig, job: Sequence[str]) -> JobReturn:
    done = state.get("status") == "done"
    result = JobReturn(overrides=list(job), cfg=config, status=JobStatus.COMPLETED if done else JobStatus.FAILED)
    result.return_value = state if done else RuntimeError(f"{state.get('status')}: {state.get('reason')}")
    return result
