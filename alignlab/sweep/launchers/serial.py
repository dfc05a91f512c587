"""Runs one point after another, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignlab.sweep.launchers.base import PointLauncher

if TYPE_CHECKING:  # Hydra imports plugins, and so this file, in every Hydra application of the environment
    from alignlab.sweep.tasks import OnFinished, Task


@dataclass
class SerialLauncherConf:
    """hydra/launcher=serial: points one after another, in this process."""

    _target_: str = "hydra_plugins.alignlab_plugins.launchers.SerialLauncher"


class SerialLauncher(PointLauncher):
    """One point after another, in this process, so that all points share imports, compiled layers and caches."""

    def run(self, tasks: Sequence[Task], on_finished: OnFinished) -> None:
        from alignlab.sweep.tasks import compiled_where_it_pays, this_process_has_gpus

        for task in compiled_where_it_pays(tasks, 1, gpus=this_process_has_gpus):
            task()
            for name in task.names:
                on_finished(name)
