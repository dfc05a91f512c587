"""`alignlab check`: shows what `alignlab train` would do with the same arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from alignlab.cli.hydra_app import run_app

if TYPE_CHECKING:
    from alignlab.config.plan import Plan


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code, which is 2 if the config has problems."""
    return run_app("check", _task, argv)


def _task(config: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig

    from alignlab.config.plan import plan

    overrides = HydraConfig.get().overrides.task
    print_plan(plan(config, overrides), overrides)


def print_plan(point: Plan, overrides: Sequence[str]) -> None:
    """Print a run's id and overrides, the states of the run and of the runs that it needs, and remarks on its rows."""
    from alignlab.config.remarks import remarks_on_file

    print(f"{point.id}  {' '.join(overrides)}")
    for step in point.chain():
        state = step.run.status() or "not run yet"
        role = "" if step is point else "starts from "
        print(f"    {role}{step.id}: {state}", flush=True)
    for remark in remarks_on_file(point.train):
        print(f"    {remark}", flush=True)
