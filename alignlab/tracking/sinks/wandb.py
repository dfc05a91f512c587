"""Weights & Biases (W&B): one W&B run per point, grouped by sweep; offline if there is no login."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from alignlab.checks import one_of
from alignlab.errors import Problem, TrackingError
from alignlab.tracking.sinks.base import RunIdentity, Sink, Tracking
from alignlab.tracking.sinks.jsonl import STEP

log = logging.getLogger(__name__)

MODES = ("auto", "online", "offline")


@dataclass(kw_only=True)
class Wandb(Tracking):
    """W&B as a mirror of the run directory.

    project, entity: as in W&B. An empty entity means your default entity.
    mode:            "online", "offline" or "auto". "auto" is the value of WANDB_MODE if that is set; else it is online
                     if there is a stored key or WANDB_API_KEY, and offline if there is none.
    tags:            shown in the W&B table of runs.
    """

    project: str = "alignlab"
    entity: str = ""
    mode: str = "auto"
    tags: list[str] = field(default_factory=list)

    def problems(self) -> Iterator[Problem]:
        yield from one_of("mode", self.mode, MODES)

    def open(self, run: RunIdentity) -> Sink:
        return WandbSink(self, run)


class WandbSink:
    """One W&B run with the run's own id.

    Online, a resumed run continues the same W&B run. Offline, each attempt writes its own files.
    Raises TrackingError if W&B can't start, or if mode=online has no key.
    """

    def __init__(self, config: Wandb, run: RunIdentity) -> None:
        import wandb

        mode = _mode(config.mode)
        try:
            self._run = wandb.init(
                project=config.project,
                entity=config.entity or None,
                id=run.id,
                name=run.id,
                group=run.group,
                job_type=run.job_type,
                config=dict(run.config),
                tags=config.tags,
                dir=run.directory.resolve(),  # W&B's service process may have another working directory
                mode=mode,  # type: ignore[arg-type]  # one of MODES or what WANDB_MODE may be
                resume="allow" if mode == "online" else None,
                reinit="create_new",  # the runs of a vectorized group are open at the same time
                settings=wandb.Settings(silent=True, console="off", x_save_requirements=False),
            )
        except wandb.Error as error:
            raise TrackingError(f"W&B can't start: {error}\n  type: tracking.mode=offline") from error
        self._save_requirements()
        self._run.define_metric("*", step_metric=STEP, step_sync=True)
        log.info("wandb: %s", self._run.url if mode == "online" else f"{mode}, files in {run.directory}/wandb")

    def _save_requirements(self) -> None:
        """Save the list of installed packages. W&B would make it again for every run, which takes 0.2 seconds."""
        folder = Path(self._run.dir)
        if not folder.is_dir():  # WANDB_MODE=disabled
            return
        file = folder / "requirements.txt"
        file.write_text(_requirements())
        self._run.save(file, base_path=folder, policy="now")

    def log(self, row: Mapping[str, float]) -> None:
        self._run.log(dict(row))

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        import wandb

        if rows:
            columns: list[str | int] = list(rows[0])
            self._run.log({name: wandb.Table(columns, [[row[str(column)] for column in columns] for row in rows])})

    def finish(self, summary: Mapping[str, Any], *, failed: bool) -> None:
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=int(failed))


@cache
def _requirements() -> str:
    """Every installed package with its version, one per line."""
    found = {f"{package.name}=={package.version}" for package in distributions()}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def _mode(configured: str) -> str:
    """The mode for W&B. It is online only if there is a key, because W&B would otherwise prompt on the terminal.

    Raises TrackingError if mode=online has no key.
    """
    import wandb

    if configured == "auto" and os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"]
    if configured == "offline":
        return "offline"
    has_key = wandb.login(prompt=False, verify=False)
    if configured == "online" and not has_key:
        raise TrackingError("tracking.mode=online needs a key\n  type: wandb login   or: tracking.mode=offline")
    return "online" if has_key else "offline"
