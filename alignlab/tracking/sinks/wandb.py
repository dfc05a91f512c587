"""Weights & Biases (W&B): one W&B run per point, grouped by sweep; offline if there is no login."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from alignlab.checks import one_of
from alignlab.errors import Problem, TrackingError
from alignlab.tracking.metrics import CURVES
from alignlab.tracking.reachable import is_reachable
from alignlab.tracking.sinks.base import Ending, RunIdentity, Sink, TrackingWithFigures
from alignlab.tracking.sinks.jsonl import STEP, log_again

log = logging.getLogger(__name__)

MODES = ("auto", "online", "offline")
ARTIFACTS = ("policy", "rows")

# W&B shows 0 as finished, 255 as killed, and other codes as failed.
_EXIT_CODES = {"done": 0, "interrupted": 255}
_LONGEST_NAME = 128  # characters, a limit of W&B
_INIT_SECONDS = 20.0  # for the answer of a server that accepts connections

_SENT = "config, metrics and installed packages"


@dataclass(kw_only=True)
class Wandb(TrackingWithFigures):
    """W&B as a mirror of the run directory.

    project, entity: as in W&B. An empty entity means your default entity.
    mode:            "online", "offline" or "auto". "auto" is the value of WANDB_MODE if that is set; else it is online
                     if there is a stored key or WANDB_API_KEY, and offline if there is none. Without a network an
                     online run is written offline, and the log says so.
    tags:            shown in the W&B table of runs, beside the names of objective, model and data.
    samples:         log prompts and answers as tables. null: only offline, because prompts may be confidential.
    artifacts:       what is uploaded as artifacts when a run ends: policy (the saved model), rows (rows.parquet of its
                     evaluations).
    figures:         log the figures of a run, or of a sweep, as images.
    """

    project: str = "alignlab"
    entity: str = ""
    mode: str = "auto"
    tags: list[str] = field(default_factory=list)
    samples: bool | None = None
    artifacts: list[str] = field(default_factory=list)

    def problems(self) -> Iterator[Problem]:
        yield from one_of("mode", self.mode, MODES)
        for name in self.artifacts:
            yield from one_of("artifacts", name, ARTIFACTS)

    def open(self, run: RunIdentity) -> Sink:
        return WandbSink(self, run)


class WandbSink:
    """One W&B run with the run's own id.

    Online, a resumed run continues the same W&B run. Offline, a further attempt logs all earlier rows again and then
    replaces the earlier files, because W&B keeps only the last of several synced files of a run.
    Raises TrackingError if W&B can't start, or if mode=online has no key.
    """

    def __init__(self, config: Wandb, run: RunIdentity) -> None:
        import wandb

        mode = wanted = _mode(config.mode)
        if wanted == "online" and not is_reachable(url := wandb.setup().settings.base_url):
            mode = _offline_instead(f"{url} can't be reached")
        self._directory, self._artifacts, self._with_figures = run.directory, config.artifacts, config.figures
        # What would not have been sent must not be sent later either.
        self._samples = wanted != "online" if config.samples is None else config.samples
        try:
            self._run = self._init(config, run, mode)
        except wandb.Error as error:
            if mode != "online" or isinstance(error, wandb.errors.AuthenticationError):
                raise TrackingError(f"W&B can't start: {error}\n  type: tracking.wandb.mode=offline") from error
            mode = _offline_instead(f"W&B can't start online ({error})")
            self._run = self._init(config, run, mode)
        own = Path(self._run.dir).parent.resolve()
        left = [folder for folder in run.directory.glob("wandb/offline-run-*") if folder.resolve() != own]
        if mode == "online":  # an attempt without a network has left files; what was uploaded is there already
            left = [folder for folder in left if not list(folder.glob("*.wandb.synced"))]
        self._replaced = left if mode in ("online", "offline") else []
        self.anew = mode == "offline" or bool(self._replaced)
        self._save_requirements()
        self._run.define_metric("*", step_metric=STEP, step_sync=True)
        for name, kept in CURVES.items():
            self._run.define_metric(name, step_metric=STEP, summary=f"{kept},last")
        log.info("wandb: %s", self._about(mode))
        if self.anew:
            log_again(self, run.directory)

    def _init(self, config: Wandb, run: RunIdentity, mode: str) -> Any:
        import wandb

        return wandb.init(
            project=config.project,
            entity=config.entity or None,
            id=run.id,
            name=(run.name or run.id)[:_LONGEST_NAME],
            group=run.group,
            job_type=run.job_type,
            notes=run.notes or None,
            config=dict(run.config),
            tags=list(dict.fromkeys([*config.tags, *run.tags])),
            dir=run.directory.resolve(),  # W&B's service process may have another working directory
            mode=mode,  # type: ignore[arg-type]  # one of MODES or what WANDB_MODE may be
            resume="allow" if mode == "online" else None,
            reinit="create_new",  # the runs of a vectorized group are open at the same time
            # x_disable_meta: no command line, which may hold credentials, and no user or host name.
            settings=wandb.Settings(
                silent=True,
                console="off",
                x_save_requirements=False,
                x_disable_meta=True,
                host="",
                init_timeout=_INIT_SECONDS,
            ),
        )

    def _about(self, mode: str) -> str:
        """Where the run is, and what leaves this machine."""
        if mode == "online":
            samples = ", prompts and answers" if self._samples else ""
            hint = "" if self._samples else "; no prompts or answers (tracking.wandb.samples=true sends them)"
            return f"{self._run.url}: sends {_SENT}{samples}{hint}"
        return f"{mode}, files in {self._directory}/wandb; nothing leaves this machine until `alignlab runs --sync`"

    def _save_requirements(self) -> None:
        """Save the list of installed packages. W&B would make it again for every run, which takes 0.2 seconds."""
        folder = Path(self._run.dir)
        if not folder.is_dir():  # WANDB_MODE=disabled
            return
        file = folder / "requirements.txt"
        file.write_text(_requirements(), encoding="utf-8")
        self._run.save(file, base_path=folder, policy="now")

    def log(self, row: Mapping[str, float]) -> None:
        self._run.log(dict(row))

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], *, private: bool = True) -> None:
        import wandb

        if rows and (self._samples or not private):
            columns: list[str | int] = list(rows[0])
            cells: list[Iterable[Any]] = [[row[str(column)] for column in columns] for row in rows]
            self._run.log({name: wandb.Table(columns, cells, allow_mixed_types=True)})

    def figures(self, files: Sequence[Path]) -> None:
        import wandb

        if self._with_figures:
            self._run.log({f"figures/{file.stem}": wandb.Image(str(file)) for file in files})

    def finish(self, summary: Mapping[str, Any], *, ending: Ending) -> None:
        plain = {name: value for name, value in summary.items() if name not in CURVES}
        self._run.summary.update({**plain, "job/status": ending})
        self._save_artifacts()
        self._run.finish(exit_code=_EXIT_CODES.get(ending, 1))
        for folder in self._replaced:
            shutil.rmtree(folder, ignore_errors=True)

    def _save_artifacts(self) -> None:
        directory = self._directory.resolve()
        wanted = {
            "policy": ("model", directory / "policy", "**/*"),
            "rows": ("evaluation", directory / "evaluation", "*/rows.parquet"),
        }
        for name in self._artifacts:
            kind, folder, pattern = wanted[name]
            self._save_artifact(f"{name}-{self._run.id}", kind, folder, pattern)

    def _save_artifact(self, name: str, kind: str, folder: Path, pattern: str) -> None:
        """Log the files of a folder as an artifact; nothing if there are none.

        W&B reads them where they are. Otherwise it would copy a policy to another folder for every attempt, and an
        offline run could not be uploaded from another machine.
        """
        import wandb

        files = sorted(file for file in folder.glob(pattern) if file.is_file())
        if not files:
            return
        artifact = wandb.Artifact(name, type=kind)
        for file in files:
            artifact.add_file(str(file), name=file.relative_to(folder).as_posix(), policy="immutable")
        self._run.log_artifact(artifact)


@cache
def _requirements() -> str:
    """Every installed package with its version, one per line."""
    found = {f"{package.name}=={package.version}" for package in distributions()}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def _mode(configured: str) -> str:
    """The mode for W&B. It is online only if there is a key, because W&B would otherwise prompt on the terminal.

    Raises TrackingError if mode=online has no key.
    """
    if configured == "auto" and os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"]
    if configured == "offline":
        return "offline"
    if configured == "online" and not has_key():
        raise TrackingError(
            "tracking.wandb.mode=online needs a key\n  type: wandb login   or: tracking.wandb.mode=offline"
        )
    return "online" if has_key() else "offline"


def _offline_instead(why: str) -> str:
    """Warn that an online run is written offline. Returns the mode."""
    log.warning("wandb: %s, so this run is written offline; `alignlab runs --sync` uploads it later", why)
    return "offline"


def has_key() -> bool:
    """Whether W&B has a key, in WANDB_API_KEY or from `wandb login`. Never asks for one."""
    import wandb

    return bool(wandb.login(prompt=False, verify=False))
