"""Trains points that differ only in numbers as one model, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignlab.errors import ConfigError, Problem
from alignlab.sweep.launchers.base import PointLauncher
from alignlab.sweep.launchers.serial import SerialLauncher

if TYPE_CHECKING:  # Hydra imports plugins, and so this file, in every Hydra application of the environment
    from alignlab.sweep.tasks import OnFinished, RunTask, Task


# Trials of a search that are trained as one model, unless sweeper.at_once is set. Each of them is suggested without the
# results of the others.
_TRIALS_AT_ONCE = 8


@dataclass
class VectorizedLauncherConf:
    """hydra/launcher=vectorized: train points that differ only in numbers as one model.

    Points for which the results would not be exact are rejected.
    """

    _target_: str = "hydra_plugins.alignlab_plugins.launchers.VectorizedLauncher"


class VectorizedLauncher(PointLauncher):
    """Points that differ only in numbers as one model, in this process."""

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

        SerialLauncher().run(with_vectorized(tasks, lambda plans: len(plans) > 1), on_finished)
