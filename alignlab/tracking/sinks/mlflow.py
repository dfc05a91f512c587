"""MLflow, through Lightning's logger. `mlflow ui --backend-store-uri sqlite:///outputs/mlflow.db` shows the runs."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock

from alignlab.checks import installed
from alignlab.errors import Problem, TrackingError
from alignlab.tracking.sinks.base import Ending, RunIdentity, Sink, TrackingWithFigures
from alignlab.tracking.sinks.jsonl import STEP, log_again

log = logging.getLogger(__name__)

_STATUS = {"done": "FINISHED", "interrupted": "KILLED"}

# The tag with alignlab's id of a run, because MLflow chooses its own.
_RUN = "alignlab.run"

_PACKAGES = ("mlflow", "sqlalchemy", "alembic")  # the last two read and write MLflow's database

_LOCAL = ("sqlite:", "file:")


@dataclass(kw_only=True)
class MLflow(TrackingWithFigures):
    """MLflow: its database in the output folder, or any MLflow server.

    uri:        MLflow's tracking URI. Empty: MLFLOW_TRACKING_URI, or else `sqlite:///<output_root>/mlflow.db`, with
                images and tables in `<output_root>/mlflow`.
    experiment: name of the experiment.
    samples:    log prompts and answers as tables. null: only if the URI is a database or a folder on this machine.
    figures:    log the figures of a run, or of a sweep, as images.
    """

    uri: str = ""
    experiment: str = "alignlab"
    samples: bool | None = None

    def problems(self) -> Iterator[Problem]:
        missing = (problem for name in _PACKAGES for problem in installed("", None, name, extra="mlflow"))
        yield from islice(missing, 1)
        if not self.experiment.strip():
            yield Problem("experiment", self.experiment, "must not be empty", "tracking.mlflow.experiment=alignlab")

    def open(self, run: RunIdentity) -> Sink:
        return MLflowSink(self, run)


class MLflowSink:
    """One MLflow run. A further attempt deletes the earlier MLflow run and logs its rows again.

    Raises TrackingError if MLflow can't start.
    """

    anew = True

    def __init__(self, config: MLflow, run: RunIdentity) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
        import mlflow
        from lightning.pytorch.loggers import MLFlowLogger

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        root = run.directory.resolve().parents[1]
        uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        artifacts = None if uri else (root / "mlflow").as_uri()
        uri = uri or f"sqlite:///{root}/mlflow.db"
        local = uri.startswith(_LOCAL)
        self._samples = local if config.samples is None else config.samples
        self._with_figures = config.figures
        self._step, self._logged, self._tables = 0, set[str](), 0
        tags = {
            _RUN: run.id,
            "alignlab.group": run.group or "",
            "alignlab.kind": run.job_type,
            "alignlab.tags": ", ".join(run.tags),
            "mlflow.note.content": run.notes,
            "mlflow.user": "",  # otherwise the name of the user, and the path of the program
            "mlflow.source.name": "alignlab",
        }
        try:
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / ".mlflow.lock"):  # two processes must not create the same database
                client = mlflow.MlflowClient(uri)
                experiment = _experiment(client, config.experiment, artifacts)
            _remove(client, experiment, run.id)
            self._logger = MLFlowLogger(config.experiment, run.name or run.id, tracking_uri=uri, tags=tags)
            self._logger.log_hyperparams(_with_plain_keys(run.config))
        except Exception as error:  # of a database, of a server or of the network
            fix = "tracking.mlflow.uri=<another>   or: tracking=none"
            raise TrackingError(f"MLflow can't start: {error}\n  type: {fix}") from error
        sends = "" if local else f": sends config and metrics{', prompts and answers' if self._samples else ''}"
        log.info("mlflow: experiment %s in %s%s", config.experiment, uri, sends)
        log_again(self, run.directory)

    def log(self, row: Mapping[str, float]) -> None:
        self._step = int(row.get(STEP, self._step))
        self._logged.update(row)
        self._logger.log_metrics({name: value for name, value in row.items() if name != STEP}, self._step)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], *, private: bool = True) -> None:
        """Log the rows as a JSON file, `<name>/<step>-<number of the table>.json`."""
        if rows and (self._samples or not private):
            self._tables += 1
            step = int(rows[0].get("step", self._step))
            file = f"{name}/{step:06d}-{self._tables}.json"
            self._logger.experiment.log_dict(self._logger.run_id, {"rows": [dict(row) for row in rows]}, file)

    def figures(self, files: Sequence[Path]) -> None:
        for file in files if self._with_figures else ():
            self._logger.experiment.log_artifact(self._logger.run_id, str(file), "figures")

    def finish(self, summary: Mapping[str, Any], *, ending: Ending) -> None:
        """Log the numbers of the summary that no row has, and how the run ended."""
        numbers = {
            name: value
            for name, value in summary.items()
            if name not in self._logged and isinstance(value, int | float) and math.isfinite(value)
        }
        if numbers:
            self._logger.log_metrics(numbers, self._step)
        self._logger.experiment.set_tag(self._logger.run_id, "alignlab.status", ending)
        self._logger.finalize(_STATUS.get(ending, "FAILED"))


def _experiment(client: Any, name: str, artifacts: str | None) -> str:
    """The id of the experiment, which is created if there is none."""
    import mlflow

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except mlflow.MlflowException:  # another process has created it since
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _remove(client: Any, experiment: str, run: str) -> None:
    """Delete MLflow's runs of earlier attempts at a run."""
    for earlier in client.search_runs([experiment], filter_string=f"tags.`{_RUN}` = '{run}'"):
        client.delete_run(earlier.info.run_id)


def _with_plain_keys(config: Any) -> Any:
    """A config whose keys have only characters that MLflow accepts."""
    if isinstance(config, Mapping):
        return {re.sub(r"[^\w./ -]", "_", str(key)): _with_plain_keys(value) for key, value in config.items()}
    return config
