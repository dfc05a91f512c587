"""Records with values of wrong types: no command ends with a traceback, and no record stops the others."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from alignlab.config.from_record import recorded_plan
from alignlab.errors import ConfigError
from alignlab.reports.collect import read_runs
from alignlab.reports.live import run_status
from alignlab.reports.page.write import write_page
from alignlab.reports.runs import show_comparison, show_run, show_screen, show_table
from alignlab.runs.directory import RunDir
from alignlab.runs.query import Filter, children_of, runs_of, select
from tests.reports.made_sweep import run_id, write
from tests.runs.bad_values import bad_records

Run = Callable[..., Any]

FIELDS = {
    "attempt": 2, "resumed_from": 3, "host": "other", "pid": 5, "parent": None, "reward": None, "sweep": "made",
    "attempts": [{"attempt": 1, "status": "interrupted", "reason": None, "started": "2026-01-01T00:00:00+00:00"}],
    "kinds": {"objective": "dpo", "model": "tiny", "peft": "none", "data": "lab", "optim": "adamw"}, "cwd": "/tmp",
    "plugins": {}, "queued_by": [{"host": "other", "lock": "process-1"}], "kept": None, "damaged": ["a state"],
    "model": {"reference_weights": "abc", "fingerprint": "def"}, "machine": {"cpus": 2},
}  # fmt: skip


def good_record(root: Path) -> dict[str, Any]:
    """A record as a run writes it, with all fields that readers use."""
    write(root / "good")
    record = RunDir.of(root / "good", run_id("dpo", "0.1", "1")).record()
    config = {
        **record["config"],
        "trainer": {"max_steps": 6, "batch_size": 4},
        "model": {"name": "lab", "alphabet": "abcdef"},
        "peft": {},
    }
    config |= {"optim": {"lr": 1e-3}, "reference": "auto", "rollout": {}, "tracking": {}, "reward": None}
    rows = {"rows": 4, "digest": "d", "dropped": {"empty": 1}, "mean_chosen_tokens": 4.0}
    data = {**record["data"], "train": rows, "eval": rows, "pairs": rows}
    summary = dict(list(record["summary"].items())[:4])
    return {**record, **FIELDS, "config": config, "data": data, "summary": summary}


def written(root: Path, stride: int) -> Iterator[tuple[RunDir, str]]:
    """(directory, changed field) of a run for every `stride`-th bad record."""
    for number, (field, record) in enumerate(bad_records(good_record(root))):
        if number % stride:
            continue
        run = RunDir.of(root, f"dpo-{number:06}")
        run.path.mkdir(parents=True)
        run.record_file.write_text(json.dumps(record))
        run.metrics.write_text('{"train/global_step": 1, "train/loss": 0.5}\n[1]\n{"train/global_step": "x"}\n')
        yield run, field


@pytest.mark.parametrize("stride", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_every_reader_of_records(stride: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = dict(written(tmp_path, stride))
    out = io.StringIO()
    monkeypatch.setattr("alignlab.reports.runs.console", lambda: Console(file=out, width=100))
    records = runs_of(tmp_path)
    assert {record["id"] for record in records} == {run.id for run in runs}
    assert all(isinstance(record["status"], str) for record in records)
    show_table(records, tmp_path)
    for one, other in zip(records, [*records[1:], records[0]], strict=True):
        run = RunDir.of(tmp_path, one["id"])
        show_screen(one, run, children_of(one, records))
        show_run(one, run, [])
        show_comparison(one, other)
        run_status(run)
    assert "\x1b[31m" not in out.getvalue()
    for condition in ("seed=1", "exact/kl>1", "status!=done", "objective.beta<=0.3", "parent=x*"):
        select([*records, {"id": "dpo-1", "flat": {"seed": 1, "objective.beta": 1}, "summary": {"exact/kl": 2}}],
               [Filter.parse(condition)], tmp_path)  # fmt: skip
    found = read_runs(tmp_path, [record["id"] for record in records])
    assert len(found.frame) == len(records)


@pytest.mark.parametrize("stride", [89, pytest.param(1, marks=pytest.mark.slow)])
def test_a_plan_is_restored_or_refused_in_words(stride: int, tmp_path: Path) -> None:
    refused = {}
    for run, field in written(tmp_path, stride):
        try:
            recorded_plan(str(tmp_path), run.id, trust_remote_code=False)
        except ConfigError as error:
            refused[run.id, field] = str(error)
    assert refused
    unnamed = [key for key, text in refused.items() if key[0] not in text and "the record says" not in text]
    assert unnamed == []


def test_a_value_of_a_wrong_type_in_a_config_is_named(tmp_path: Path) -> None:
    record = good_record(tmp_path)
    run = RunDir.of(tmp_path, "dpo-1")
    run.path.mkdir(parents=True)
    record["config"] |= {"data": {}, "optim": {"lr": 0.001}}
    for group, values, said in (
        ("trainer", {"max_steps": 5, "gradient_clip": "much"}, "gradient_clip"),
        ("optim", {"beta1": [0.9]}, "beta1"),
        ("model", {"name": "${oc.env:HOME}"}, "name: an interpolation is not a value"),
        (
            "trainer",
            {"max_steps": 5, "batch_size": -1},
            "fields of its record have a wrong type: config.trainer.batch_size",
        ),
        ("trainer", {"max_steps": 5, "gradient_clip": -1.0}, "gradient_clip = -1.0"),
    ):
        run.record_file.write_text(json.dumps({**record, "config": {**record["config"], group: values}}))
        with pytest.raises(ConfigError, match=re.escape(said)):
            recorded_plan(str(tmp_path), run.id, trust_remote_code=False)
    run.record_file.write_text(json.dumps({**record, "parent": "dpo-1"}))
    with pytest.raises(ConfigError, match="it starts from itself"):
        recorded_plan(str(tmp_path), run.id, trust_remote_code=False)
    run.record_file.write_text(json.dumps(record))
    assert recorded_plan(str(tmp_path), run.id, trust_remote_code=False).train.trainer.max_steps == 6


@pytest.mark.slow
def test_a_page_of_many_bad_records_is_written(tmp_path: Path) -> None:
    runs = dict(written(tmp_path, 11))
    page = write_page(read_runs(tmp_path, [run.id for run in runs]), tmp_path / "page")
    assert "<b>" not in page.with_suffix(".md").read_text()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_exports_have_all_runs_and_no_secret(ending: str, alignlab: Run, tmp_path: Path) -> None:
    runs = dict(written(tmp_path / "outputs", 47))
    RunDir.of("outputs", "dpo-half").update(config={"own": "\ud800", "large": 10**400}, status="done")
    found = alignlab("runs", "table", f"all.{ending}")
    assert found.code == 0, found.err
    table = pd.read_csv("all.csv") if ending == "csv" else pd.read_parquet("all.parquet")
    assert set(table["id"]) == {run.id for run in runs} | {"dpo-half"}
    assert table["judge.llm.api_key"].dropna().unique().tolist() == ["(hidden)"]
    assert r"\ud800" in table["own"].tolist()
