"""A finished run goes on: the longer run has the same curve, and what a run of that length has computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CLI = Callable[..., Any]
BANDIT = ["model=bandit", "data=bandit", "tracking=none", "evaluation=off"]
KEEP = "trainer.keep=state"


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def curve(run: Path, name: str) -> list[float]:
    return [row[name] for row in rows(run) if name in row]


def trained(known: set[Path]) -> Path:
    (new,) = set(Path("outputs/runs").glob("dpo-*")) - known
    known.add(new)
    return new


def test_it_goes_on(alignlab: CLI) -> None:
    known: set[Path] = set()
    assert alignlab("train", *BANDIT, "trainer.max_steps=3", KEEP).code == 0
    short = trained(known)
    assert alignlab("train", *BANDIT, "trainer.max_steps=6").code == 0
    whole = trained(known)
    more = ["train", f"run={short.name}", "trainer.max_steps=6"]
    assert alignlab(*more).code == 0
    longer = trained(known)
    assert longer.name != whole.name
    for name in ("train/loss", "train/learning_rate", "train/grad_norm", "train/epoch"):
        assert curve(longer, name) == pytest.approx(curve(whole, name), rel=1e-6)
    record = json.loads((longer / "run.json").read_text())
    assert (record["continues"], record["resumed_from"], record["status"]) == (short.name, 3, "done")
    assert record["config"]["trainer"]["max_steps"] == 6
    assert record["summary"]["exact/kl"] == pytest.approx(
        json.loads((whole / "run.json").read_text())["summary"]["exact/kl"], rel=1e-5
    )
    assert len(rows(short)) < len(rows(longer)), "the finished run is unchanged"
    assert record["config"]["evaluation"]["at_end"] is False, "the finished run was not evaluated either"
    again = alignlab(*more, "evaluation=off")
    assert "done already" in again.err
    assert len(list(Path("outputs/runs").glob("dpo-*"))) == 3

    told = alignlab("train", f"run={short.name}", "trainer.max_steps=2", "trainer.batch_size=1")
    assert told.code == 2
    assert "must be larger than the 3 updates" in told.err
    assert "trainer.batch_size = 1\n      can't change when a run goes on" in told.err
    told = alignlab("train", f"run={short.name}", "objective.beta=1", "trainer.max_step=9", "-m")
    assert [text in told.err for text in ("3 problems", "model.parent=", "type: trainer.max_steps=9")] == [True] * 3
    told = alignlab("train", f"run={short.name}", "trainer.max_steps=9", "evaluation.prompts=4", "judge=gold")
    later = "type: evaluation=off   or   alignlab evaluate run=<the longer run>"
    assert "evaluation.prompts = 4\n      can't be set when a run goes on" in told.err
    assert "type: alignlab evaluate run=<the longer run> evaluation.prompts=4" in told.err
    assert "type: alignlab evaluate run=<the longer run> judge=gold" in told.err
    assert later in alignlab("train", f"run={short.name}", "trainer.max_steps=9", "evaluation=on").err
    assert "trainer.max_steps=6" in alignlab("train", f"run={short.name}").err
    assert "there is no such run" in alignlab("train", "run=nothing", "trainer.max_steps=9").err
    assert not (whole / "checkpoints").exists()
    told = alignlab("train", f"run={whole.name}", "trainer.max_steps=9", "trainer.keep=state")
    assert told.code == 2
    assert "a finished run keeps it only with trainer.keep=state" in told.err
    again = f"type: alignlab train {' '.join(BANDIT)} trainer.max_steps=9 trainer.keep=state   (from its beginning)"
    assert again in told.err


def test_the_schedule_is_that_of_the_longer_run(alignlab: CLI) -> None:
    known: set[Path] = set()
    assert alignlab("train", *BANDIT, "trainer.max_steps=2", "optim.schedule=linear", "optim.lr=1", KEEP).code == 0
    short = trained(known)
    assert alignlab("train", f"run={short.name}", "trainer.max_steps=4").code == 0
    assert curve(trained(known), "train/learning_rate") == pytest.approx([1.0, 0.5, 0.5, 0.25])
