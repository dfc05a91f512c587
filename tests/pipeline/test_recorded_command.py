"""The command that makes a run again is for the place where the run is now."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from alignlab.integrity import write_sealed
from alignlab.pipeline.recorded_command import command_of
from alignlab.pipeline.requested_runs import only_a_record
from alignlab.runs.directory import RunDir

WORDS = ["model=tiny", "data.drop=[tie,duplicate]", "++sweep.name=s", "output_root=old", "trainer.keep=record"]


def made(root: Path, words: list[str]) -> RunDir:
    run = RunDir.of(root, "dpo-1")
    write_sealed(run.record_file, {"id": "dpo-1", "status": "done", "kept": "record", "attempt": 1, "overrides": words})
    return run


def test_a_run_that_was_unpacked_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = made(Path("other"), [*WORDS, "tracking.wandb.api_key=abcdef"])
    command = command_of(run, {"trainer.keep": "policy", "rerun": "true"})
    kept = ["model=tiny", "data.drop=[tie,duplicate]", "tracking.wandb.api_key=(hidden)"]
    assert shlex.split(command) == [
        "alignlab", "train", *kept, "trainer.keep=policy", "rerun=true", "output_root=other",
    ]  # fmt: skip
    assert "'data.drop=[tie,duplicate]'" in command, "a shell would expand the brackets"
    assert only_a_record(run).endswith(f"type: {command}")


def test_a_run_in_its_usual_place_needs_no_output_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for root in (Path("outputs"), tmp_path / "outputs"):
        command = command_of(made(root, WORDS), {})
        assert command == "alignlab train model=tiny 'data.drop=[tie,duplicate]' trainer.keep=record"


def test_it_resumes_a_run_that_was_typed_with_rerun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command_of(made(Path("outputs"), ["model=tiny", "rerun=true"]), {}) == "alignlab train model=tiny"


def test_a_run_of_a_stage_has_no_command(tmp_path: Path) -> None:
    run = made(tmp_path, [])
    assert command_of(run, {"rerun": "true"}) == ""
    assert only_a_record(run) == "kept only its record and has no policy"
