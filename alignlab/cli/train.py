"""`alignlab train`: one run, or every point of a sweep."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from alignlab.cli.hydra_app import run_app

# Sweeps whose table has its head on the terminal already.
_HEADED: set[Path] = set()


def main(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit code."""
    # Tokenizers are used before any worker is forked; their warning about it is noise.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars of libraries would fill a log file
    return run_app("train", _task, argv)


def _task(config: DictConfig) -> dict[str, Any]:
    """One point. What it returns is what launchers hand back to the sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from alignlab.config.plan import plan
    from alignlab.reports.sweep import point_lines
    from alignlab.reports.tables import headline
    from alignlab.training.run import run_plan

    job = HydraConfig.get()
    record = run_plan(plan(config), group=config.sweep.name or None, overrides=list(job.overrides.task))
    folder = Path(config.output_root) / "sweeps" / config.sweep.name
    if job.mode == RunMode.MULTIRUN and (folder / "sweep.json").is_file():
        print(point_lines(folder, record["id"], first=folder not in _HEADED), flush=True)
        _HEADED.add(folder)
    else:
        print(headline(record), flush=True)
    return record
