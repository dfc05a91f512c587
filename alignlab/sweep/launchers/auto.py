"""The default launcher: chooses between one model, all GPUs, all cores and one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydra.plugins.launcher import Launcher

from alignlab.sweep.launchers.base import PointLauncher
from alignlab.sweep.launchers.host import free_gpus, share_gpus
from alignlab.sweep.launchers.serial import SerialLauncher

if TYPE_CHECKING:  # Hydra imports plugins, and so this file, in every Hydra application of the environment
    from alignlab.sweep.launchers.local_pool import Pool
    from alignlab.sweep.tasks import OnFinished, RunTask, Task


@dataclass
class AutoLauncherConf:
    """hydra/launcher=auto, the default.

    Points of tiny models are vectorized. Other points run on all GPUs if there are several, or on all cores if the
    models are small and there is much to compute. Otherwise they run one after another in this process.
    """

    _target_: str = "hydra_plugins.alignlab_plugins.launchers.AutoLauncher"


class AutoLauncher(PointLauncher):
    """Chooses where points run:

    - Points of models so small that a training step is mostly overhead are trained as one model.
    - Other points run on all GPUs at once if there are several.
    - Without GPUs, small points and their parents run on all cores at once, if starting processes pays. Points with the
      same batches are trained as one model.
    - All others run one after another, in this process.
    """

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
        """Points that are not vectorized because of their size.

        Finished points count too: so a sweep that is continued computes exactly what an uninterrupted one would have.
        """
        from alignlab.vectorized.eligibility import groups, overhead_bound

        together = {p.id for group in groups([p.plan for p in points])[0] if overhead_bound(group) for p in group}
        return [point for point in points if point.name not in together]

    @staticmethod
    def _in_processes(alone: Sequence[RunTask]) -> bool:
        """Whether points that are not vectorized run in processes: on a machine without GPUs, if that pays."""
        from alignlab.sweep.tasks import processes_of
        from alignlab.vectorized.eligibility import worth_processes

        if any(processes_of(point) > 1 for point in alone):  # each has processes of its own
            return False
        waiting = len(alone) > 1 and any(not point.is_finished() for point in alone)
        return waiting and not free_gpus() and worth_processes([point.plan for point in alone])

    def run(self, tasks: Sequence[Task], on_finished: OnFinished) -> None:
        from alignlab.sweep.launchers.local_pool import Pool
        from alignlab.sweep.tasks import VectorizedTask, processes_of, with_vectorized
        from alignlab.vectorized.eligibility import overhead_bound, worth_vectorizing

        ready = with_vectorized(tasks, overhead_bound)
        SerialLauncher().run([task for task in ready if isinstance(task, VectorizedTask)], on_finished)
        others = [task for task in ready if not isinstance(task, VectorizedTask)]
        if self._pool:
            self._pool.run(with_vectorized(others, worth_vectorizing, self._pool.workers), on_finished)
        elif others and share_gpus():
            devices = max(map(processes_of, others))
            with Pool(len(others), at_once=0, per_gpu=1, retries=1, devices=devices) as pool:
                pool.run(others, on_finished)
        else:
            SerialLauncher().run(with_vectorized(others, worth_vectorizing), on_finished)


def as_point_launcher(launcher: Launcher) -> PointLauncher | None:
    """The launcher if it is alignlab's, the `auto` launcher if it is Hydra's default, and None for all others.

    The config does not name `auto` as its default, because a group that the primary config's defaults list overrides
    can't be chosen by presets and experiments.
    """
    # Imported here: Hydra executes plugin modules again when it looks for plugins, which creates another class object.
    # Hydra has no public name for its default launcher.
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    if isinstance(launcher, BasicLauncher):
        return AutoLauncher()
    return launcher if isinstance(launcher, PointLauncher) else None
