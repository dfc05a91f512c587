"""Points that differ only in numbers, as one model in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignlab.errors import ConfigError, Problem
from alignlab.sweep.launchers.base import PointLauncher
from alignlab.sweep.launchers.serial import HereLauncher

if TYPE_CHECKING:  # Hydra imports its plugins, and with them this file, in every application of the environment
    from alignlab.sweep.tasks import RunTask, Task, Told


# Points of a search that a stack trains together, where it is not said: each was suggested without the others' results.
_IN_A_STACK = 8


@dataclass
class StackedLauncherConf:
    """hydra/launcher=stacked: points that differ only in numbers as one model; refused where that is not exact."""

    _target_: str = "hydra_plugins.alignlab_plugins.launchers.StackedLauncher"


class StackedLauncher(PointLauncher):
    """Points that differ only in numbers as one model, in this process."""

    def check(self, points: Sequence[RunTask]) -> None:
        from alignlab.vectorized.eligibility import groups, refuse_unstackable

        if any(point.bar for point in points):
            text = "trains its points to the end, and sweeper.prune may stop some earlier"
            raise ConfigError([Problem("hydra/launcher", "stacked", text, "launcher=auto, or sweeper.prune=false")])
        plans = [point.plan for point in points]
        refuse_unstackable(plans, groups(plans)[1])

    def width(self) -> int:
        return _IN_A_STACK

    def run(self, tasks: Sequence[Task], told: Told) -> None:
        from alignlab.sweep.tasks import in_stacks

        HereLauncher().run(in_stacks(tasks, lambda plans: len(plans) > 1), told)
