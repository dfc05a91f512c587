"""A grid sweeper. It checks all points before the first one starts, and keeps all results if a point fails.

This module does not postpone annotations (`from __future__ import annotations`): Hydra executes plugin modules before
they are in `sys.modules`, where dataclasses would look postponed annotations up.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from alignlab.errors import Problem
from alignlab.sweep.launchers.auto import as_point_launcher

log = logging.getLogger(__name__)


@dataclass
class PreflightSweeperConf:
    """hydra/sweeper=preflight, the default.

    params: axis -> values, as for Hydra's basic sweeper.
    dry:    check the sweep without writing anything (`alignlab check`).
    """

    _target_: str = "hydra_plugins.alignlab_plugins.preflight_sweeper.PreflightSweeper"
    params: dict[str, str] = field(default_factory=dict)
    dry: bool = False


ConfigStore.instance().store(group="hydra/sweeper", name="preflight", node=PreflightSweeperConf, provider="alignlab")


class PreflightSweeper(Sweeper):
    """Runs a grid: checks all points first, continues if a point fails, and writes a table at the end."""

    def __init__(self, params: dict[str, str] | None = None, dry: bool = False) -> None:
        self.params = params or {}
        self.dry = dry

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.loader = hydra_context.config_loader
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        assert self.config is not None
        assert self.launcher is not None
        # Imported here, because Hydra imports this module in every Hydra application of the environment.
        from alignlab.config.axes import grid
        from alignlab.config.composer import Composer
        from alignlab.config.plan import require_reachable
        from alignlab.config.points import plan_points, unique

        hydra = self.config.hydra
        composer = Composer(self.loader, hydra.job.config_name, hydra.overrides.hydra)
        given = [composer.parse(text) for text in (*(f"{k}={v}" for k, v in self.params.items()), *arguments)]
        points = grid(given, self.config.sweep.zip, self.config.sweep.exclude)
        preset = hydra.runtime.choices.get("sweep")
        if preset and not self.params and not points.axes:
            points.problems.append(
                Problem("sweep", preset, "has no axes under hydra.sweeper.params, so there is nothing to sweep")
            )
        plans, jobs = unique(plan_points(composer, points.jobs, points.problems), points.jobs, points.axes)
        from alignlab.sweep.sweep import Sweep

        sweep = Sweep(self.config, plans, jobs, points.axes)
        launcher = as_point_launcher(self.launcher)
        if launcher:
            launcher.check(sweep.points)
        if self.dry:
            from alignlab.cli.check import check_plans

            check_plans(plans, jobs, starts=launcher.description(sweep.points) if launcher else "")
            return None
        require_reachable(plans)
        with sweep:
            if launcher:
                sweep.run(launcher)
            else:
                sweep.prepare()
                self._launch(sweep.jobs)
        sweep.raise_if_unfinished()
        return None

    def _launch(self, jobs: Sequence[Sequence[str]]) -> None:
        """Run jobs with a launcher that is not alignlab's.

        It may lose return values or end when a point fails. The results are in the run directories all the same.
        """
        assert self.launcher is not None
        try:
            self.launcher.launch(jobs, initial_job_idx=0)
        except Exception as error:
            log.error("the launcher ended early: %s: %s", type(error).__name__, error)
