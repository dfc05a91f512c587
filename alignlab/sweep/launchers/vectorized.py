"""Trains points that differ only in numbers as one model, in this process or on several cores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignlab.checks import at_least
from alignlab.errors import ConfigError, Problem
from alignlab.sweep.launchers.base import PointLauncher
from alignlab.sweep.launchers.serial import SerialLauncher

if TYPE_CHECKING:  # Hydra imports plugins, and so this file, in every Hydra application of the environment
    from alignlab.sweep.launchers.local_pool import Pool
    from alignlab.sweep.tasks import OnFinished, RunTask, Task


# Trials of a search that are trained as one model, unless sweeper.at_once is set. Each of them is suggested without the
# results of the others.
_TRIALS_AT_ONCE = 8


@dataclass
class VectorizedLauncherConf:
    """hydra/launcher=vectorized: train points that differ only in numbers as one model.

    Points for which the results would not be exact are rejected.

    at_once: number of processes, each with one group of points at a time. 1: this process. 0: one for each core.
    """

    _target_: str = "hydra_plugins.alignlab_plugins.launchers.VectorizedLauncher"
    at_once: int = 1


class VectorizedLauncher(PointLauncher):
    """Points that differ only in numbers as one model, in this process or in several.

    If there are fewer groups of such points than processes, groups are split.
    """

    def __init__(self, at_once: int = 1) -> None:
        problems = [*at_least("launcher.at_once", at_once, 0, example=1, hint="0: one process for each core")]
        if problems:
            raise ConfigError(problems)
        self._at_once = at_once
        self._pool: Pool | None = None

    @contextmanager
    def session(self, points: Sequence[RunTask]) -> Iterator[None]:
        from alignlab.sweep.launchers.local_pool import Pool

        if not self.runs_in_subprocesses(points):
            yield
            return
        with Pool(len(points), at_once=self._at_once, per_gpu=1, retries=1) as self._pool:
            try:
                yield
            finally:
                self._pool = None

    def runs_in_subprocesses(self, points: Sequence[RunTask]) -> bool:
        return self._at_once != 1

    def check(self, points: Sequence[RunTask]) -> None:
        from alignlab.vectorized.eligibility import groups, refuse_ineligible

        if any(point.thresholds for point in points):
            text = "trains all points to the end, but sweeper.prune stops some earlier"
            raise ConfigError([Problem("hydra/launcher", "vectorized", text, "launcher=auto, or sweeper.prune=false")])
        plans = [point.plan for point in points]
        refuse_ineligible(plans, groups(plans)[1])

    def width(self) -> int:
        return _TRIALS_AT_ONCE

    def run(self, tasks: Sequence[Task], on_finished: OnFinished) -> None:
        from alignlab.sweep.tasks import with_vectorized

        pool, processes = self._pool or SerialLauncher(), self._pool.workers if self._pool else 1
        pool.run(with_vectorized(tasks, lambda plans: len(plans) > 1, processes), on_finished)
