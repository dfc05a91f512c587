"""`alignlab train`: trains one run, or every point of a sweep."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from omegaconf import DictConfig

from alignlab.cli.continue_run import asks_to_continue
from alignlab.cli.continue_run import main as continue_main
from alignlab.cli.finish import finish
from alignlab.cli.hydra_app import run_app
from alignlab.config.plan import Plan, plan, require_reachable
from alignlab.inert import MOST_OF_OUTPUT, visible
from alignlab.reports.synthesis import synthesis_text
from alignlab.strategies.place import given_place


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    # Tokenizers warn if a process is forked after their use. Here that is harmless.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars of libraries would fill a log file
    with _leading():
        if asks_to_continue(argv):
            return continue_main(argv)
        return run_app("train", train_composed, argv)


def _leading() -> AbstractContextManager[None]:
    """Lead the other processes of this command, if torchrun or SLURM has started several."""
    if given_place().world == 1:
        return nullcontext()
    from alignlab.training.team import given_team, present_team

    return nullcontext() if present_team() else given_team()


def train_composed(config: DictConfig) -> dict[str, Any]:
    """Train one run, or all rounds of iterative training. Returns the last record, as Hydra's own launchers do."""
    from hydra.core.hydra_config import HydraConfig

    from alignlab.pipeline.run import run_plan

    typed = list(HydraConfig.get().overrides.task)
    planned = plan(config, typed)
    require_reachable([planned])
    if planned.train.rounds:
        return _rounds(planned, config, typed)
    record = run_plan(planned, group=config.sweep.name or None, overrides=typed)
    finish(planned, record)
    if planned.train.trainer.keep == "record" and not planned.run.record().get("evaluation_failed"):
        planned.run.keep_record_only()
    return record


def _rounds(planned: Plan, config: DictConfig, typed: list[str]) -> dict[str, Any]:
    """Run all rounds of iterative training. Returns the record of the last one."""
    from alignlab.config.rounds import round_plan
    from alignlab.pipeline.rounds import run_rounds

    record: dict[str, Any] = {}
    rounds = run_rounds(planned, lambda rows, before: round_plan(config, planned, rows, before, typed), typed)
    for done in rounds:
        made = synthesis_text(done.made.file, done.made.provenance)
        print(visible(f"round {done.number}: {made}", MOST_OF_OUTPUT), flush=True)
        finish(done.plan, done.record)
        record = done.record
    return record
