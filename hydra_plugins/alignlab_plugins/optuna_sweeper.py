"""`sweeper=optuna`: a search over intervals and choices. See docs/search.md.

This module does not postpone annotations (`from __future__ import annotations`): Hydra executes plugin modules before
they are in `sys.modules`, where dataclasses would look postponed annotations up.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from alignlab.checks import installed
from alignlab.errors import ConfigError, Problem
from alignlab.sweep.launchers.auto import as_point_launcher


@dataclass
class OptunaSweeperConf:
    """hydra/sweeper=optuna.

    params:      axis -> values in Hydra's syntax: interval(0.01, 1), tag(log, interval(1e-5, 1e-3)),
                 int(interval(1, 8)), choice(a, b) or a list, range(0, 1, 0.1). Axes that are typed after -m are added.
    metric:      metric of a run's summary (eval/loss, exact/frontier_gap, ...).
    direction:   minimize or maximize. Empty: the known better direction of the metric.
    n_trials:    number of trials in all, including those of earlier commands.
    at_once:     number of trials that are suggested together. 0: as many as the launcher runs at a time.
    startup:     number of random trials before the sampler (TPE) makes suggestions.
    seed:        seed of the sampler.
    prune:       stop a run if its metric at an evaluation is worse than the median of finished runs at the same step.
    prune_after: no run is stopped at a step for which fewer finished runs than this have a value.
    storage:     SQLAlchemy URL of the study. Empty: an SQLite file beside the sweep's table.
    dry:         check the search without writing anything (`alignlab check`).
    """

    _target_: str = "hydra_plugins.alignlab_plugins.optuna_sweeper.OptunaSweeper"
    params: dict[str, str] = field(default_factory=dict)
    metric: str = "eval/loss"
    direction: str = ""
    n_trials: int = 20
    at_once: int = 0
    startup: int = 10
    seed: int = 1
    prune: bool = False
    prune_after: int = 5
    storage: str = ""
    dry: bool = False


ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=OptunaSweeperConf, provider="alignlab")


class OptunaSweeper(Sweeper):
    """Runs trials that Optuna suggests, with any of alignlab's launchers."""

    def __init__(self, params: dict[str, str], dry: bool, **options: Any) -> None:
        problems = list(installed("sweeper", "optuna", "optuna", extra="search"))
        if problems:
            raise ConfigError(problems)
        self.params = params
        self.dry = dry
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.loader = hydra_context.config_loader
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        # Imported here, because Hydra imports this module in every Hydra application of the environment.
        from alignlab.config.composer import Composer
        from alignlab.sweep.search import Axis, Options, Search

        assert self.config is not None
        assert self.launcher is not None
        hydra = self.config.hydra
        composer = Composer(self.loader, hydra.job.config_name, hydra.overrides.hydra)
        typed = [composer.parse(text) for text in (*(f"{k}={v}" for k, v in self.params.items()), *arguments)]
        last = {str(o.get_key_element()): o for o in typed}  # of two overrides with the same key the later one counts
        swept = {key: o for key, o in last.items() if o.is_sweep_override()}
        fixed = [str(o.input_line) for o in last.values() if not o.is_sweep_override()]
        problems = [] if swept else [Problem("sweeper.params", None, _NOTHING, "-m 'optim.lr=interval(1e-4,1e-2)'")]
        for name in ("zip", "exclude"):
            if self.config.sweep[name]:
                text = "is for grids: a search samples each axis on its own"
                problems.append(Problem(f"sweep.{name}", list(self.config.sweep[name]), text, f"'sweep.{name}=[]'"))
        launcher = as_point_launcher(self.launcher)
        if launcher is None:
            text = "can't run trials; there are: auto, serial, vectorized, local, ray, slurm"
            problems.append(Problem("launcher", type(self.launcher).__name__, text, "launcher=local"))
        axes = []
        for override in swept.values():
            try:
                axes.append(Axis.of(override))
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        assert launcher is not None
        search = Search(self.config, composer, fixed, axes, Options(**self.options))
        launcher.check(search.corners)
        if self.dry:
            print(f"{search.name}: {search.options.n_trials} trials, {search.direction} ", end="")
            print(search.options.metric, *(f"    {axis}" for axis in axes), sep="\n")
            return
        search.run(launcher)


_NOTHING = "there is nothing to search over: type an interval, a range or choices after -m"
