"""Trackio and MLflow with real local stores: what is read back equals the files of the run directory."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose

from alignlab.config.plan import plan
from alignlab.errors import ConfigError, TrackingError
from alignlab.tracking.sinks.base import RunIdentity, Tracking
from alignlab.tracking.sinks.jsonl import JsonlSink, read_rows
from alignlab.tracking.sinks.mlflow import MLflow
from alignlab.tracking.sinks.tensorboard import TensorBoard
from alignlab.tracking.sinks.trackio import Trackio

RUN = Path(__file__).parents[1] / "fixtures/runs_of_0_1/runs/dpo-41b8597ad5c9"
STEP = "train/global_step"
UNSAFE = "<script>alert(1)</script> | **bold**"

# metric -> its values in the order of logging, with their steps
Curves = dict[str, list[tuple[int, float]]]


@pytest.fixture(scope="session")
def trackio_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trackio's folder. Its variable is read when Trackio is imported."""
    os.environ.setdefault("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
    return Path(pytest.importorskip("trackio", reason='needs pip install "alignlab[trackio]"').TRACKIO_DIR)


@pytest.fixture
def run(tmp_path: Path) -> RunIdentity:
    """A run directory with the metrics of a finished run and an image; the id is one of this test only."""
    folder = tmp_path / "outputs/runs" / tmp_path.name
    shutil.copytree(RUN, folder)
    (folder / "figures").mkdir()
    shutil.copy(Path(__file__).parents[2] / "docs/frontier.png", folder / "figures/frontier.png")
    config = {"objective": {"beta": 0.1}, "sweep/axes": {"+judge@judge.x": "gold"}}
    return RunIdentity(tmp_path.name, folder, "s", "dpo", name="dpo beta=0.1 seed=1", tags=["dpo"], config=config)


def written(run: RunIdentity) -> Curves:
    """The curves in metrics.jsonl."""
    curves: Curves = {}
    for row in read_rows(run.directory / "metrics.jsonl"):
        for name, value in row.items():
            if name != STEP:
                curves.setdefault(name, []).append((row[STEP], value))
    return curves


def of_trackio(run: RunIdentity) -> tuple[Curves, list[dict[str, Any]]]:
    """(curves, other values such as images and tables) of the only run of this name."""
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (found,) = [one for one in trackio.Api().runs("alignlab") if run.id in one.name]
    assert found.name == f"dpo beta=0.1 seed=1 ({run.id})"
    curves: Curves = {}
    others = []
    for row in SQLiteStorage.get_logs("alignlab", found.name):
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step":
                curves.setdefault(name, []).append((row["step"], value))
            elif name not in ("step", "timestamp"):
                others.append({name: value})
    return curves, others


def of_mlflow(run: RunIdentity, uri: str = "") -> tuple[Curves, Any]:
    """(curves, the MLflow run) of the only run that is not deleted."""
    import mlflow

    client = mlflow.MlflowClient(uri or f"sqlite:///{run.directory.parents[1]}/mlflow.db")
    experiment = client.get_experiment_by_name("alignlab")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    curves = {
        name: [(metric.step, metric.value) for metric in client.get_metric_history(found.info.run_id, name)]
        for name in found.data.metrics
    }
    return curves, found


def log_twice(tracking: Tracking, run: RunIdentity) -> None:
    """Two attempts. The second resumes at step 10, logs the rest again, a table, and numbers that no row has."""
    everything = read_rows(run.directory / "metrics.jsonl")
    for resume_at, ending in ((0, "interrupted"), (10, "done")):
        file, sink = JsonlSink(run.directory / "metrics.jsonl", resume_at=resume_at), tracking.open(run)
        for row in everything:
            if row[STEP] > resume_at and (ending == "done" or row[STEP] <= 15):
                file.log(row)
                sink.log(row)
        file.finish({}, ending=ending)
        sink.table("completions", [{"step": 3, "prompt": UNSAFE, "score": None}])
        sink.finish({"train/loss": -1.0, "tail/loss": 0.25, "data": "text", "bad": math.nan}, ending=ending)


def test_trackio_holds_the_curve_of_all_attempts(trackio_folder: Path, run: RunIdentity) -> None:
    log_twice(Trackio(), run)
    curves, others = of_trackio(run)
    assert [step for step, _ in curves["train/loss"]] == [1, 5, 10, 15, 20]
    assert curves == {**written(run), "tail/loss": [(curves["train/loss"][-1][0], 0.25)]}
    named = {name: value for row in others for name, value in row.items()}
    assert named["job/status"] == "done"
    image = trackio_folder / "media" / named["figures/frontier"]["file_path"]
    assert image.read_bytes() == (run.directory / "figures/frontier.png").read_bytes()
    (row,) = named["completions"]["_value"]
    assert row == {"step": 3, "prompt": "\\<script\\>alert(1)\\</script\\> \\| \\*\\*bold\\*\\*", "score": None}


def test_trackio_keeps_runs_apart_that_are_open_at_the_same_time(trackio_folder: Path, run: RunIdentity) -> None:
    empty = run.directory.with_name("empty")
    first = Trackio().open(RunIdentity(f"{run.id}-a", empty, None, "dpo", name="dpo beta=0.1 seed=1"))
    second = Trackio().open(RunIdentity(f"{run.id}-b", empty, None, "dpo", name="dpo beta=0.1 seed=1"))
    for step in (1, 2):
        first.log({STEP: step, "train/loss": 0.5})
        second.log({STEP: step, "train/loss": 0.25})
    first.finish({}, ending="done")
    second.finish({}, ending="failed")
    for letter, loss in (("a", 0.5), ("b", 0.25)):
        of_one = RunIdentity(f"{run.id}-{letter}", empty, None, "dpo")
        assert of_trackio(of_one)[0] == {"train/loss": [(1, loss), (2, loss)]}


def test_trackio_says_nothing_on_the_terminal(
    trackio_folder: Path, run: RunIdentity, capsys: pytest.CaptureFixture[str]
) -> None:
    Trackio(samples=False).open(run).finish({}, ending="done")
    assert capsys.readouterr().out == ""


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without runs, because MLflow takes seconds to make one."""
    for package in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(package, reason='needs pip install "alignlab[mlflow]"')
    import mlflow

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.mark.slow  # 9 s, most of which MLflow needs to make its database
def test_mlflow_holds_the_curve_of_all_attempts(empty_database: Path, run: RunIdentity) -> None:
    """Everything is in the output folder, and the earlier attempt is deleted."""
    shutil.copy(empty_database, run.directory.parents[1])
    log_twice(MLflow(), run)
    curves, found = of_mlflow(run)
    assert [step for step, _ in curves["train/loss"]] == [1, 5, 10, 15, 20]
    assert curves == {**written(run), "tail/loss": [(curves["train/loss"][-1][0], 0.25)]}
    assert found.info.status == "FINISHED"
    shown = ("mlflow.runName", "alignlab.run", "alignlab.group", "alignlab.kind", "alignlab.status")
    assert [found.data.tags[name] for name in shown] == ["dpo beta=0.1 seed=1", run.id, "s", "dpo", "done"]
    assert found.data.tags["mlflow.user"] == ""
    assert found.data.params == {"objective/beta": "0.1", "sweep/axes/_judge_judge.x": "gold"}
    (folder,) = (run.directory.parents[1] / "mlflow").glob(f"{found.info.run_id}/artifacts")
    image = (folder / "figures/frontier.png").read_bytes()
    assert image == (run.directory / "figures/frontier.png").read_bytes()
    (file,) = (folder / "completions").iterdir()
    assert json.loads(file.read_text()) == {"rows": [{"step": 3, "prompt": UNSAFE, "score": None}]}
    assert not Path("mlruns").exists()


def test_mlflow_in_a_database_of_the_users(empty_database: Path, run: RunIdentity, tmp_path: Path) -> None:
    """Its path may have a space. Prompts are left out on request, and images too."""
    shutil.copy(empty_database, tmp_path / "my runs.db")
    uri = f"sqlite:///{tmp_path}/my runs.db"
    sink = MLflow(uri=uri, samples=False, figures=False).open(run)
    sink.table("answers", [{"step": 1, "prompt": UNSAFE}])
    sink.finish({}, ending="diverged")
    curves, found = of_mlflow(run, uri)
    assert curves == written(run)
    assert found.info.status == "FAILED"
    assert not (run.directory.parents[1] / "mlflow.db").exists()


def test_mlflow_that_can_not_start_says_what_to_type(empty_database: Path, run: RunIdentity) -> None:
    with pytest.raises(TrackingError, match=r"MLflow can't start: (?s:.*)type: tracking\.mlflow\.uri="):
        MLflow(uri="nonsense://x").open(run)


@pytest.mark.parametrize(("tracking", "extra"), [(Trackio, "trackio"), (MLflow, "mlflow"), (TensorBoard, "sinks")])
def test_a_missing_package_is_one_message(
    tracking: Callable[[], Tracking], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        tracking()
    (problem,) = caught.value.problems
    assert problem.type_this == f'pip install "alignlab[{extra}]"'


def test_several_trackers_at_once(hydra_conf: None) -> None:
    words = ["tracking=[wandb,trackio,mlflow]", "tracking.trackio.project=mine", "tracking.mlflow.experiment=e"]
    found = plan(compose("train", words), words).train.tracking
    assert [type(tracker).__name__ for tracker in found.values()] == ["Wandb", "Trackio", "MLflow"]
    assert found["trackio"] == Trackio(project="mine")
    assert found["mlflow"] == MLflow(experiment="e")


def test_names_that_can_not_be_used_are_refused() -> None:
    for wrong in (lambda: Trackio(project="  "), lambda: MLflow(experiment=" ")):
        with pytest.raises(ConfigError, match="alignlab"):
            wrong()
