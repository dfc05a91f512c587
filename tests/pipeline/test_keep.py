"""`trainer.keep`: runs without weights in every way of training, and verbs that need a policy that is gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignlab.runs.directory import RunDir

Run = Callable[..., Any]
BANDIT = ["experiment=bandit_ipo", "tracking=none", "trainer.max_steps=3", "trainer.progress=false"]


def the_run() -> RunDir:
    (folder,) = Path("outputs/runs").glob("ipo-*[0-9a-f]")
    return RunDir(folder)


def test_a_run_keeps_its_record_and_verbs_say_what_to_type(alignlab: Run) -> None:
    assert alignlab("train", *BANDIT, "trainer.keep=record").code == 0
    run = the_run()
    assert not run.policy.exists()
    assert not run.checkpoint.parent.exists()
    summary = run.record()["summary"]
    assert sum(summary[f"exact/action/{letter}"] for letter in "abc") == pytest.approx(1.0)
    again = alignlab("train", *BANDIT)
    assert again.code == 0
    assert run.lacks_policy, "the id is the same, so it is not trained again"
    refused = alignlab("evaluate", f"run={run.id}")
    assert refused.code == 2
    assert "kept only its record" in refused.err
    assert "tracking=none trainer.max_steps=3 trainer.progress=false trainer.keep=policy rerun=true" in refused.err
    assert alignlab("train", *BANDIT, "trainer.keep=policy", "rerun=true").code == 0
    assert run.policy.exists()
    assert not run.checkpoint.parent.exists()


@pytest.mark.parametrize("launcher", ["vectorized", "serial"])
def test_points_of_a_sweep_keep_their_records(alignlab: Run, launcher: str) -> None:
    assert alignlab("train", "-m", *BANDIT, "trainer.keep=record", "seed=1,2", f"launcher={launcher}").code == 0
    folders = list(Path("outputs/runs").glob("ipo-*[0-9a-f]"))
    assert len(folders) == 2
    assert [RunDir(folder).lacks_policy for folder in folders] == [True, True]
    assert not list(Path("outputs/runs").rglob("*.safetensors"))


def test_a_parent_that_kept_its_record_is_trained_again(alignlab: Run) -> None:
    child = [*BANDIT, 'model.parent=["objective=ipo","trainer.max_steps=2"]']
    assert alignlab("train", *child, "seed=1").code == 0
    (parent,) = {RunDir(f).record()["parent"] for f in Path("outputs/runs").glob("ipo-*[0-9a-f]")} - {None}
    run = RunDir.of("outputs", parent)
    run.keep_record_only()
    assert not run.policy.exists()
    assert alignlab("train", *child, "seed=2").code == 0
    assert run.policy.exists()
    assert not run.lacks_policy


def test_other_values_are_refused(alignlab: Run) -> None:
    refused = alignlab("train", *BANDIT, "trainer.keep=weights")
    assert refused.code == 2
    assert "trainer.keep" in refused.err
    assert "record, policy, state" in refused.err
