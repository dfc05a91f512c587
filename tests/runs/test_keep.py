"""What stays of a finished run: everything, its policy, or its record only."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignlab.runs.directory import Keep, RunDir, earlier_state


def ended(root: Path, keep: Keep = "state", status: str = "done") -> RunDir:
    run = RunDir.of(root, "dpo-1")
    run.start("", fresh=True, again=True)
    for file in (run.checkpoint, earlier_state(run.checkpoint), run.checkpoint.with_name("last.ckpt.damaged")):
        file.touch()
    for folder in (run.policy, run.merged):
        folder.mkdir()
        (folder / "model.safetensors").touch()
    run.metrics.touch()
    run.end(status, keep=keep)  # type: ignore[arg-type]
    if keep == "record":
        run.keep_record_only()
    return run


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        ("state", {"checkpoints/last.ckpt", "checkpoints/last.ckpt.damaged", "policy", "merged"}),
        ("policy", {"checkpoints/last.ckpt.damaged", "policy", "merged"}),
        ("record", set()),
    ],
)
def test_what_stays(tmp_path: Path, keep: Keep, left: set[str]) -> None:
    run = ended(tmp_path, keep)
    found = [*run.path.glob("checkpoints/*"), *(f for f in (run.policy, run.merged) if f.exists())]
    assert {file.relative_to(run.path).as_posix() for file in found} == left
    assert run.record()["kept"] == keep
    assert run.metrics.exists()
    assert run.record()["status"] == "done"
    assert run.lacks_policy == (keep == "record")


def test_a_policy_that_is_gone_does_not_count_as_kept_later(tmp_path: Path) -> None:
    run = ended(tmp_path, "record")
    run.keep_record_only()
    assert run.lacks_policy
    run.start("", fresh=True, again=True)
    run.end("done")
    assert not run.lacks_policy, "it was trained again"


def test_only_finished_runs_lose_something(tmp_path: Path) -> None:
    run = ended(tmp_path, "record", "interrupted")
    assert run.checkpoint.exists()
    assert earlier_state(run.checkpoint).exists()
    assert run.policy.exists()


def test_metrics_of_a_finished_run_that_changed_are_noticed(tmp_path: Path) -> None:
    """One changed digit, lost rows, and a lost file. Nothing is known of runs that older versions made."""
    run = RunDir.of(tmp_path, "dpo-1")
    run.start("", fresh=True, again=True)
    run.metrics.write_text('{"train/global_step": 1, "train/loss": 0.5}\n')
    assert not run.metrics_changed()
    run.end("done")
    assert not run.metrics_changed()
    run.metrics.write_text('{"train/global_step": 1, "train/loss": 0.4}\n')
    assert run.metrics_changed()
    run.metrics.write_text("")
    assert run.metrics_changed()
    run.metrics.unlink()
    assert run.metrics_changed()
    run.update(metrics_sha256=None)
    assert not run.metrics_changed()
