"""`alignlab train`: trains one run, or every point of a sweep."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from alignlab.cli.hydra_app import run_app
from alignlab.config.plan import plan
from alignlab.errors import DivergedError
from alignlab.reports.tables import headline


def main(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    # Tokenizers warn if a process is forked after their use. Here that is harmless.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars of libraries would fill a log file
    return run_app("train", _task, argv)


def _task(config: DictConfig) -> dict[str, Any]:
    """Train one run. Returns its record, which Hydra's own launchers return too."""
    from hydra.core.hydra_config import HydraConfig

    from alignlab.pipeline.run import run_plan
    from alignlab.reports.evaluation import stored_text

    typed = list(HydraConfig.get().overrides.task)
    planned = plan(config, typed)
    record = run_plan(planned, group=config.sweep.name or None, overrides=typed)
    if record.get("status") == "diverged":
        raise DivergedError(f"{record['id']} diverged: {record['reason']}")
    print(headline(record), flush=True)
    if config.evaluation.at_end:
        from alignlab.pipeline.evaluate import evaluate_at_end  # takes seconds to import

        if folder := evaluate_at_end(planned):
            print(stored_text(folder), flush=True)
    return record
