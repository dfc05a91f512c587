"""How points of a sweep are run: the interface of our launchers, which Hydra knows as plugins."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:  # Hydra imports its plugins, and with them this, in every application of the environment
    from alignlab.training.pool import Pool
    from alignlab.training.tasks import RunTask, Task

log = logging.getLogger(__name__)

Told = Callable[[str], None]

# Points of a search that a stack trains together, where it is not said: each was suggested without the others' results.
_IN_A_STACK = 8


class PointLauncher(Launcher):
    """Runs tasks of a sweep. What comes of them stands in the ledger: a launcher returns nothing and loses nothing."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader = hydra_context.config_loader
        self.hydra = config.hydra

    def check(self, points: Sequence[RunTask]) -> None:
        """Raise ConfigError where a sweep's points can't be run this way; called before anything is started."""

    @contextmanager
    def serving(self, points: Sequence[RunTask]) -> Iterator[None]:
        """Around all that points need and the points themselves: what serves the whole of a sweep is kept here."""
        yield

    @abstractmethod
    def run(self, tasks: Sequence[Task], told: Told) -> None:
        """Run tasks that do not need each other; `told` is called with the name of each that has ended.

        Raises KeyboardInterrupt after a signal, when what was running has saved its state.
        """

    def width(self) -> int:
        """How many points it runs at a time, as far as that is known before."""
        return 1

    def out_of_process(self, points: Sequence[RunTask]) -> bool:
        """Whether points, and what they start from, are run in other processes: the terminal shows what all of them do,
        instead of the bars of one."""
        return False

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


def compiled_where_it_pays(tasks: Sequence[Task], processes: int, *, gpus: Callable[[], bool]) -> list[Task]:
    """Points of small models that one process after another goes through, with their layers compiled for all of them.

    gpus: says whether the processes compute on GPUs, where compiling was not measured.
    All points count, finished ones too: the same command compiles whatever it has to finish.
    """
    from alignlab.models.economy import compiling_pays_for
    from alignlab.training.tasks import RunTask

    points = [task for task in tasks if isinstance(task, RunTask) and task.plan.train.model.parameters]
    updates = sum(point.plan.train.trainer.max_steps for point in points)
    if len(points) < 2 or not compiling_pays_for(updates // processes) or gpus():
        return list(tasks)
    return [task.compiled() if isinstance(task, RunTask) else task for task in tasks]


def _this_process_has_gpus() -> bool:
    import torch

    return torch.cuda.is_available()


class HereLauncher(PointLauncher):
    """One after another, in this process: imports, compiled layers and caches serve all of them."""

    def run(self, tasks: Sequence[Task], told: Told) -> None:
        for task in compiled_where_it_pays(tasks, 1, gpus=_this_process_has_gpus):
            task()
            for name in task.names:
                told(name)


class StackedLauncher(PointLauncher):
    """Points that differ only in numbers as one model, in this process."""

    def check(self, points: Sequence[RunTask]) -> None:
        from alignlab.errors import ConfigError, Problem
        from alignlab.training.stackable import groups, refuse_unstackable

        if any(point.bar for point in points):
            text = "trains its points to the end, and sweeper.prune may stop some earlier"
            raise ConfigError([Problem("hydra/launcher", "stacked", text, "launcher=auto, or sweeper.prune=false")])
        plans = [point.plan for point in points]
        refuse_unstackable(plans, groups(plans)[1])

    def width(self) -> int:
        return _IN_A_STACK

    def run(self, tasks: Sequence[Task], told: Told) -> None:
        from alignlab.training.tasks import in_stacks

        HereLauncher().run(in_stacks(tasks, lambda plans: len(plans) > 1), told)


class AutoLauncher(PointLauncher):
    """Points of models so small that a step is mostly overhead as one model. Others on all GPUs at once, where there
    are several; small ones, and what they start from, on all cores at once, where that is worth starting processes for,
    several of them as one model where they are given the same batches; else one after another, in this process."""

    def __init__(self) -> None:
        self._pool: Pool | None = None

    @contextmanager
    def serving(self, points: Sequence[RunTask]) -> Iterator[None]:
        from alignlab.training.pool import Pool

        alone = self._alone(points)
        if not self._in_processes(alone):
            yield
            return
        with Pool(len(alone), at_once=0, per_gpu=1, retries=1) as self._pool:
            self._pool.warm_up(sum(not point.is_finished() for point in alone))
            try:
                yield
            finally:
                self._pool = None

    def width(self) -> int:
        from alignlab.training.pool import free_gpus

        return max(1, len(free_gpus()))

    def out_of_process(self, points: Sequence[RunTask]) -> bool:
        alone = self._alone(points)
        return len(alone) == len(points) and self._in_processes(alone)

    @staticmethod
    def _alone(points: Sequence[RunTask]) -> list[RunTask]:
        """Points that are in no stack; finished ones count too: what is left of a sweep is run as the whole would have
        been, to the last digit."""
        from alignlab.training.stackable import groups, tiny

        stacked = {p.id for stack in groups([p.plan for p in points])[0] if tiny(stack) for p in stack}
        return [point for point in points if point.name not in stacked]

    @staticmethod
    def _in_processes(alone: Sequence[RunTask]) -> bool:
        """Whether processes pay for points that are in no stack, on a machine without GPUs."""
        from alignlab.training.pool import free_gpus
        from alignlab.training.stackable import worth_processes

        waiting = len(alone) > 1 and any(not point.is_finished() for point in alone)
        return waiting and not free_gpus() and worth_processes([point.plan for point in alone])

    def run(self, tasks: Sequence[Task], told: Told) -> None:
        from alignlab.training.pool import Pool, share_gpus
        from alignlab.training.stackable import tiny, worth_stacking
        from alignlab.training.tasks import StackTask, in_stacks

        ready = in_stacks(tasks, tiny)
        HereLauncher().run([task for task in ready if isinstance(task, StackTask)], told)
        others = [task for task in ready if not isinstance(task, StackTask)]
        if self._pool:
            self._pool.run(in_stacks(others, worth_stacking, self._pool.workers), told)
        elif others and share_gpus():
            with Pool(len(others), at_once=0, per_gpu=1, retries=1) as pool:
                pool.run(others, told)
        else:
            HereLauncher().run(in_stacks(others, worth_stacking), told)


def ours(launcher: Launcher) -> PointLauncher | None:
    """The launcher, where it is one of ours; in the place of Hydra's default, ours; None for anybody else's.

    The default is not ours by config: what a config's defaults list overrides, no preset or experiment could choose.
    """
    # Hydra executes its plugins' modules once more when it looks for plugins: only now is this class the one it uses.
    # Hydra has no public name for its default launcher.
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    if isinstance(launcher, BasicLauncher):
        return AutoLauncher()
    return launcher if isinstance(launcher, PointLauncher) else None


def _as_hydra_wants_it(state: dict[str, Any], config: DictConfig, job: Sequence[str]) -> JobReturn:
    done = state.get("status") == "done"
    result = JobReturn(overrides=list(job), cfg=config, status=JobStatus.COMPLETED if done else JobStatus.FAILED)
    result.return_value = state if done else RuntimeError(f"{state.get('status')}: {state.get('reason')}")
    return result
