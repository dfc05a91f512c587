"""A grid sweeper that checks every point before the first one starts, and never loses the others' results.

Annotations here are not postponed: Hydra runs plugin modules before it registers them, and dataclasses could not
resolve them.
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
    """hydra/sweeper=preflight. `params` are axes as in Hydra's basic sweeper; `dry` writes nothing (alignlab check)."""

    _target_: str = "hydra_plugins.alignlab_plugins.preflight_sweeper.PreflightSweeper"
    params: dict[str, str] = field(default_factory=dict)
    dry: bool = False


ConfigStore.instance().store(group="hydra/sweeper", name="preflight", node=PreflightSweeperConf, provider="alignlab")


class PreflightSweeper(Sweeper):
    """A grid, with the whole sweep checked first, one job's failure kept to itself, and a table at the end."""

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
        # Hydra imports every plugin in every Hydra application of the environment: the heavy rooms are opened here.
        from alignlab.config.axes import grid
        from alignlab.config.composer import Composer
        from alignlab.config.points import plan_points, unique

        hydra = self.config.hydra
        composer = Composer(self.loader, hydra.job.config_name, hydra.overrides.hydra)
        given = [composer.parse(text) for text in (*(f"{k}={v}" for k, v in self.params.items()), *arguments)]
        asked = grid(given, self.config.sweep.zip, self.config.sweep.exclude)
        preset = hydra.runtime.choices.get("sweep")
        if preset and not self.params and not asked.axes:
            asked.problems.append(Problem("sweep", preset, "sweeps nothing: it has no axes under hydra.sweeper.params"))
        plans, jobs = unique(plan_points(composer, asked.jobs, asked.problems), asked.jobs, asked.axes)
        from alignlab.sweep.sweep import Sweep

        sweep = Sweep(self.config, plans, jobs, asked.axes)
        launcher = as_point_launcher(self.launcher)
        if launcher:
            launcher.check(sweep.points)
        if self.dry:
            from alignlab.cli.check import tell

            for point, job in zip(plans, jobs, strict=True):
                tell(point, job)
            return None
        with sweep:
            if launcher:
                sweep.run(launcher)
            else:
                sweep.prepare()
                self._launch(sweep.jobs)
        sweep.raise_if_unfinished()
        return None

    def _launch(self, jobs: Sequence[Sequence[str]]) -> None:
        """By somebody else's launcher. It may lose what points return, or end with one of them: the ledger does not."""
        assert self.launcher is not None
        try:
            self.launcher.launch(jobs, initial_job_idx=0)
        except Exception as error:
            log.error("the launcher ended early: %s: %s", type(error).__name__, error)
