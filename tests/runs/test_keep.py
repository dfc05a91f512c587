"""What stays of a finished run: everything, its policy, or its record only."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignlab.runs.directory import Keep, RunDir


def ended(root: Path, status: str = "done") -> RunDir:
    run = RunDir.of(root, "dpo-1")
    run.start("", fresh=True)
    run.checkpoint.touch()
    for folder in (run.policy, run.merged):
        folder.mkdir()
        (folder / "model.safetensors").touch()
    run.metrics.touch()
    run.end(status)  # type: ignore[arg-type]
    return run


@pytest.mark.parametrize(
    ("keep", "left"),
    [("state", {"checkpoints", "policy", "merged"}), ("policy", {"policy", "merged"}), ("record", set())],
)
def test_what_stays(tmp_path: Path, keep: Keep, left: set[str]) -> None:
    run = ended(tmp_path)
    run.keep(keep)
    assert {name for name in ("checkpoints", "policy", "merged") if (run.path / name).exists()} == left
    assert run.metrics.exists()
    assert run.record()["status"] == "done"
    assert run.lacks_policy == (keep == "record")


def test_a_policy_that_is_gone_does_not_count_as_kept_later(tmp_path: Path) -> None:
    run = ended(tmp_path)
    run.keep("record")
    run.keep("policy")
    assert run.lacks_policy
    run.start("", fresh=True)
    run.end("done")
    assert not run.lacks_policy, "it was trained again"


def test_only_finished_runs_lose_something(tmp_path: Path) -> None:
    run = ended(tmp_path, "interrupted")
    run.keep("record")
    assert run.checkpoint.exists()
    assert run.policy.exists()
