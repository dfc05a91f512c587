"""`alignlab evaluate model=...`: policies that were not trained here, and benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignlab.cli.evaluate import with_named_model
from tests.test_plugins import TEMPLATE

CLI = Callable[..., Any]
PLUGIN = f"plugins=[{TEMPLATE / 'my_parts'}]"


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    rows = [{"prompt": f"What is {i}?", "chosen": "A number."} for i in range(3)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["evaluate", "model=tiny", "evaluation.questions=p.jsonl", "evaluation.max_new_tokens=4"]


def summary(found: Any) -> dict[str, Any]:
    folder = Path(found.out.splitlines()[0].split()[-1])
    stored: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return stored


def test_with_and_without_a_reference(alignlab: CLI, asked: list[str]) -> None:
    alone = alignlab(*asked)
    assert alone.code == 0, alone.err
    assert "no KL, because there is no reference" in alone.out
    assert list(summary(alone)["answers"]) == ["policy"]
    beside = alignlab(*asked, "reference=tiny", "benchmark=additions", "benchmark.additions.items=6", PLUGIN)
    assert beside.code == 0, beside.err
    found = summary(beside)
    assert (found["kl"]["sequence_k1"]["value"], found["prompts"]) == (0.0, 3)
    numbers = found["benchmarks"]["additions"]["accuracy"]
    assert numbers["policy"] == numbers["reference"]
    assert (numbers["difference"]["value"], numbers["policy"]["n"]) == (0.0, 6)
    again = alignlab("evaluate", "model=tiny", "benchmark=additions", "benchmark.additions.items=6", PLUGIN)
    assert "asking the" not in again.err, "its scores are stored"
    assert "| additions: accuracy |" in again.out
    judged = alignlab(*asked, "evaluation.baselines=[chosen]", "judge=shorter", PLUGIN)
    assert summary(judged)["compared"]["chosen"]["shorter"]["win_rate"]["value"] == 1.0


def test_what_is_wrong_is_told_at_once(alignlab: CLI, asked: list[str]) -> None:
    told = alignlab(*asked, "run=dpo-1", "reference=tiny")
    assert "can't be combined with model=..." in told.err
    assert "belongs to model=...; a run has its own" in told.err
    assert "needs prompts" in alignlab("evaluate", "model=tiny").err
    assert "model=<folder or hub name>" in alignlab("evaluate").err
    wrong = alignlab(*asked, "reference=nothing", "evaluation.proxy=x", "evaluation.pairs=")
    assert [text in wrong.err for text in ("2 problems", "is neither a run", "is none of the judges")] == [True] * 3
    in_training = alignlab("train", "benchmark=lm_eval")
    assert (in_training.code, "type: alignlab evaluate run=<run> benchmark=lm_eval" in in_training.err) == (2, True)
    assert "is trained first" in alignlab("evaluate", "model=lab", "evaluation.questions=p.jsonl").err


def test_a_name_that_is_no_model_is_told_as_it_was_typed(alignlab: CLI, asked: list[str]) -> None:
    words = [word for word in asked if word != "model=tiny"]
    told = alignlab(*words, "model=./nowhere")
    assert (told.code, "1 problem" in told.err) == (2, True)
    assert "  model = ./nowhere\n      no such folder" in told.err
    assert "type: model=<a folder, or a hub name such as org/model>" in told.err
    assert "model.name" not in told.err
    beside = alignlab(*asked, "reference=./nowhere").err
    assert "  reference = ./nowhere\n      no such folder" in beside
    assert "type:" not in beside


def test_names_of_models() -> None:
    assert with_named_model(["model=org/name", "seed=1"]) == ["model=hub", "model.name=org/name", "seed=1"]
    assert with_named_model(["model=./folder", "model=tiny"]) == ["model=hub", "model.name=./folder", "model=tiny"]
