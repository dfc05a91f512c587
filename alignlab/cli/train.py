"""`alignlab train`: trains one run, or every point of a sweep."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from alignlab.cli.hydra_app import run_app
from alignlab.config.plan import Plan, plan
from alignlab.errors import DivergedError
from alignlab.inert import MOST_OF_OUTPUT, visible
from alignlab.reports.synthesis import synthesis_text
from alignlab.reports.tables import headline


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    # Tokenizers warn if a process is forked after their use. Here that is harmless.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars of libraries would fill a log file
    return run_app("train", train_composed, argv)


def train_composed(config: DictConfig) -> dict[str, Any]:
    """Train one run, or all rounds of iterative training. Returns the last record, as Hydra's own launchers do."""
    from hydra.core.hydra_config import HydraConfig

    from alignlab.pipeline.run import run_plan

    typed = list(HydraConfig.get().overrides.task)
    planned = plan(config, typed)
    if planned.train.rounds:
        return _rounds(planned, config, typed)
    record = run_plan(planned, group=config.sweep.name or None, overrides=typed)
    _finish(planned, record)
    if not planned.run.record().get("evaluation_failed"):
        planned.run.keep(planned.train.trainer.kept)
    return record


def _rounds(planned: Plan, config: DictConfig, typed: list[str]) -> dict[str, Any]:
    """Run all rounds of iterative training. Returns the record of the last one."""
    from alignlab.config.rounds import round_plan
    from alignlab.pipeline.rounds import run_rounds

    record: dict[str, Any] = {}
    rounds = run_rounds(planned, lambda rows, before: round_plan(config, planned, rows, before, typed), typed)
    for done in rounds:
        print(f"round {done.number}: {synthesis_text(done.made.file, done.made.provenance)}", flush=True)
        _finish(done.plan, done.record)
        record = done.record
    return record


def _finish(planned: Plan, record: dict[str, Any]) -> None:
    """Print the result of a run, and evaluate it if its config asks for it. Raises DivergedError if it diverged."""
    from alignlab.reports.evaluation import end_line, stored_text

    if record.get("status") == "diverged":
        raise DivergedError(f"{record['id']} diverged: {record['reason']}")
    print(headline(record), flush=True)
    if planned.is_evaluated_at_end:
        from alignlab.pipeline.evaluate import evaluate_at_end  # takes seconds to import

        if folder := evaluate_at_end(planned):
            asked_for = planned.train.evaluation.at_end
            text = stored_text(folder) if asked_for else end_line(folder, planned.run.record())
            print(visible(text, MOST_OF_OUTPUT), flush=True)
