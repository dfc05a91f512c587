"""Figures, tables of sweeps and artifacts in trackers: the files exist, and are the images that were drawn."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from alignlab.pipeline.tracked_sweep import track_sweep
from alignlab.reports.run_figures import draw_run
from alignlab.reports.sweep import write_report
from alignlab.runs.directory import RunDir
from alignlab.tracking.sinks.base import RunIdentity
from alignlab.tracking.sinks.csv import Csv
from alignlab.tracking.sinks.wandb import Wandb
from tests.tracking.tensorboard_files import events_of
from tests.tracking.wandb_files import history_of, media_of, offline_records

RUNS = Path(__file__).parents[1] / "fixtures" / "runs_of_0_1"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A finished run of the lab."""
    shutil.copytree(RUNS / "runs/dpo-41b8597ad5c9", tmp_path / "dpo-41b8597ad5c9")
    run = RunDir(tmp_path / "dpo-41b8597ad5c9")
    with run.metrics.open("a") as file:  # version 0.1 did not log exact metrics at evaluations
        for step, kl, reward in ((10, 0.3, 1.0), (20, 0.9, 1.6)):
            file.write(json.dumps({"train/global_step": step, "exact/kl": kl, "exact/reward": reward}) + "\n")
    return run


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """The folder of a finished sweep."""
    shutil.copytree(RUNS, tmp_path / "outputs")
    return tmp_path / "outputs" / "sweeps" / "betas"


def identity(run: RunDir) -> RunIdentity:
    return RunIdentity(run.id, run.path, None, "dpo", name="dpo beta=0.1 seed=1")


def test_the_figures_of_a_run_are_drawn_from_its_files(run: RunDir) -> None:
    drawn = draw_run(run, "dpo beta=0.1 seed=1")
    assert [file.relative_to(run.path).as_posix() for file in drawn] == ["figures/curves.png", "figures/frontier.png"]
    assert all(file.read_bytes().startswith(PNG) and file.stat().st_size > 10_000 for file in drawn)


def test_a_run_without_curves_and_without_a_frontier_has_no_figures(run: RunDir) -> None:
    run.metrics.write_text('{"train/global_step": 1, "train/loss": 0.5}\n')
    assert draw_run(run, "one update") == []
    run.metrics.write_text('{"train/global_step": 1, "train/loss": NaN}\n{"train/global_step": 2, "train/loss": NaN}\n')
    assert draw_run(run, "diverged") == []


def test_wandb_holds_the_images_of_a_run(run: RunDir) -> None:
    drawn = draw_run(run, "dpo")
    sink = Wandb(mode="offline").open(identity(run))  # logs the figures that are there already
    sink.finish({}, ending="done")
    media = media_of(run.path, history_of(offline_records(run.path)))
    assert {name: [file.read_bytes() for file in files] for name, files in media.items()} == {
        f"figures/{file.stem}": [file.read_bytes()] for file in drawn
    }


def test_without_figures_no_image_is_logged(run: RunDir) -> None:
    draw_run(run, "dpo")
    sink = Wandb(mode="offline", figures=False).open(identity(run))
    sink.finish({}, ending="done")
    assert media_of(run.path, history_of(offline_records(run.path))) == {}


def test_policy_and_rows_are_artifacts_on_request(run: RunDir) -> None:
    """Each entry of the two manifests is a file in the run directory, with its size. Nothing is copied elsewhere."""
    rows = run.path / "evaluation/1234/rows.parquet"
    rows.parent.mkdir(parents=True)
    rows.write_bytes(b"PAR1 rows")
    sink = Wandb(mode="offline", artifacts=["policy", "rows"]).open(identity(run))
    sink.finish({}, ending="done")
    records = offline_records(run.path)
    logged = {r.artifact.name: r.artifact for r in records if r.WhichOneof("record_type") == "artifact"}
    contents = {
        name: {entry.path: (Path(entry.local_path), entry.size) for entry in artifact.manifest.contents}
        for name, artifact in logged.items()
    }
    policy = {file.name: (file, file.stat().st_size) for file in run.policy.iterdir()}
    assert contents == {f"policy-{run.id}": policy, f"rows-{run.id}": {"1234/rows.parquet": (rows, 9)}}
    assert policy["model.safetensors"][1] > 10_000
    assert {name: artifact.type for name, artifact in logged.items()} == {
        f"policy-{run.id}": "model",
        f"rows-{run.id}": "evaluation",
    }


def test_artifacts_that_do_not_exist_yet_are_left_out(run: RunDir) -> None:
    shutil.rmtree(run.policy)
    sink = Wandb(mode="offline", artifacts=["policy", "rows"]).open(identity(run))
    sink.finish({}, ending="interrupted")
    assert not any(r.WhichOneof("record_type") == "artifact" for r in offline_records(run.path))


def test_tensorboard_holds_the_images_of_a_run(run: RunDir) -> None:
    pytest.importorskip("tensorboardX", reason='needs pip install "alignlab[sinks]"')
    from PIL import Image

    from alignlab.tracking.sinks.tensorboard import TensorBoard

    drawn = draw_run(run, "dpo")
    sink = TensorBoard().open(identity(run))
    sink.finish({}, ending="done")
    images = {v.tag: v.image for event in events_of(run.path) for v in event.summary.value if v.HasField("image")}
    assert images.keys() == {"figures/curves", "figures/frontier"}
    for file in drawn:
        found = images[f"figures/{file.stem}"]
        with Image.open(file) as image:
            assert (found.width, found.height) == image.size
        assert found.encoded_image_string.startswith(PNG)


def test_a_sweep_is_a_run_of_its_own_with_its_tables_and_figures(sweep: Path) -> None:
    """Its tables are logged even if prompts and answers are not."""
    write_report(sweep)
    track_sweep(sweep, {"wandb": Wandb(mode="offline", samples=False), "csv": Csv()})
    records = offline_records(sweep)
    (info,) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert (info.run_id, info.run_group, info.job_type, info.display_name) == (
        "sweep-betas",
        "betas",
        "sweep",
        "sweep betas",
    )
    media = media_of(sweep, history_of(records))
    assert media.keys() == {"table", "figures/curves", "figures/frontier"}
    for name in ("curves", "frontier"):
        (image,) = media[f"figures/{name}"]
        assert image.read_bytes() == (sweep / "figures" / f"{name}.png").read_bytes()
        assert image.stat().st_size > 10_000
    (table,) = media["table"]
    logged = json.loads(table.read_text())
    written = list(csv.reader((sweep / "table.csv").open()))
    assert logged["columns"] == written[0]
    at = logged["columns"].index("exact/kl")
    assert [row[at] for row in logged["data"]] == [float(row[at]) for row in written[1:]]
    assert len(logged["data"]) == 2
    assert not (sweep / "metrics.csv").exists()


def test_a_sweep_that_is_tracked_again_replaces_its_offline_files(sweep: Path) -> None:
    write_report(sweep)
    for _ in range(2):
        track_sweep(sweep, {"wandb": Wandb(mode="offline")})
        assert len(media_of(sweep, history_of(offline_records(sweep)))["figures/curves"]) == 1


def test_a_tracker_that_refuses_a_sweep_leaves_a_warning(
    sweep: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignlab.tracking.sinks.wandb.has_key", lambda: False)
    track_sweep(sweep, {"wandb": Wandb(mode="online")})
    assert "betas: its table and figures are not tracked: tracking.wandb.mode=online needs a key" in caplog.text
