"""Chooses between one model, all GPUs, all cores and one process by the points and the machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydra.plugins.launcher import Launcher

from alignlab.sweep.launchers.base import PointLauncher
from alignlab.sweep.launchers.host import free_gpus, share_gpus
from alignlab.sweep.launchers.serial import SerialLauncher

if TYPE_CHECKING:  # Hydra imports its plugins, and with them this file, in every application of the environment
    from alignlab.sweep.launchers.local_pool import Pool
    from alignlab.sweep.tasks import OnFinished, RunTask, Task


@dataclass
class AutoLauncherConf:
    """hydra/launcher=auto, the default: vectorized for tiny models, on all GPUs if there are several, on all cores for
    small models with much to do, else serial."""

    _target_: str = "hydra_plugins.alignlab_plugins.launchers.AutoLauncher"


class AutoLauncher(PointLauncher):
    """Points of models so small that a step is mostly overhead as one model. Others on all GPUs at once, where there
    are several; small ones, and what they start from, on all cores at once, where that is worth starting processes for,
    several of them as one model where they are given the same batches; else one after another, in this process."""

    def __init__(self) -> None:
        self._pool: Pool | None = None

    @contextmanager
    def session(self, points: Sequence[RunTask]) -> Iterator[None]:
        from alignlab.sweep.launchers.local_pool import Pool

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

        return max(1, len(free_gpus()))

    def runs_in_subprocesses(self, points: Sequence[RunTask]) -> bool:
        alone = self._alone(points)
        return len(alone) == len(points) and self._in_processes(alone)

    @staticmethod
    def _alone(points: Sequence[RunTask]) -> list[RunTask]:
        """Points that are in no stack; finished ones count too: what is left of a sweep is run as the whole would have
        been, to the last digit."""
        from alignlab.vectorized.eligibility import groups, overhead_bound

        stacked = {p.id for stack in groups([p.plan for p in points])[0] if overhead_bound(stack) for p in stack}
        return [point for point in points if point.name not in stacked]

    @staticmethod
    def _in_processes(alone: Sequence[RunTask]) -> bool:
        """Whether processes pay for points that are in no stack, on a machine without GPUs."""
        from alignlab.vectorized.eligibility import worth_processes

        waiting = len(alone) > 1 and any(not point.is_finished() for point in alone)
        return waiting and not free_gpus() and worth_processes([point.plan for point in alone])

    def run(self, tasks: Sequence[Task], on_finished: OnFinished) -> None:
        from alignlab.sweep.launchers.local_pool import Pool
        from alignlab.sweep.tasks import VectorizedTask, with_vectorized
        from alignlab.vectorized.eligibility import overhead_bound, worth_vectorizing

        ready = with_vectorized(tasks, overhead_bound)
        SerialLauncher().run([task for task in ready if isinstance(task, VectorizedTask)], on_finished)
        others = [task for task in ready if not isinstance(task, VectorizedTask)]
        if self._pool:
            self._pool.run(with_vectorized(others, worth_vectorizing, self._pool.workers), on_finished)
        elif others and share_gpus():
            with Pool(len(others), at_once=0, per_gpu=1, retries=1) as pool:
                pool.run(others, on_finished)
        else:
            SerialLauncher().run(with_vectorized(others, worth_vectorizing), on_finished)


def as_point_launcher(launcher: Launcher) -> PointLauncher | None:
    """The launcher, where it is one of ours; in the place of Hydra's default, ours; None for anybody else's.

    The default is not ours by config: what a config's defaults list overrides, no preset or experiment could choose.
    """
    # Imported here, because Hydra executes plugin modules again when it looks for them, which makes another class.
    # Hydra has no public name for its default launcher.
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    if isinstance(launcher, BasicLauncher):
        return AutoLauncher()
    return launcher if isinstance(launcher, PointLauncher) else None
