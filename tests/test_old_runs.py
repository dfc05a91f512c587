"""Runs of version 0.1 are still listed, shown and evaluated. Reading them does not change their files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignlab.config.from_record import recorded_plan

Run = Callable[..., Any]

FIXTURE = Path(__file__).parent / "fixtures" / "runs_of_0_1"
LOW, HIGH, SFT = "dpo-41b8597ad5c9", "dpo-c009860c640c", "sft-325254db73a5"


@pytest.fixture
def old_runs(tmp_path: Path) -> Path:
    """A copy of the fixture as `outputs` of the working directory."""
    shutil.copytree(FIXTURE, tmp_path / "outputs")
    return tmp_path / "outputs"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_old_runs_are_listed(old_runs: Path, alignlab: Run) -> None:
    found = alignlab("runs")
    rows = [re.split(r"  +", line.strip()) for line in found.out.splitlines()]
    table = {row[0]: dict(zip(rows[0], row, strict=False)) for row in rows[1:]}
    assert list(table) == [SFT, LOW, HIGH]
    assert {row["status"] for row in table.values()} == {"done"}
    assert [table[name]["exact KL (nats)"] for name in (LOW, HIGH)] == ["0.115", "0.103"]
    assert table[HIGH]["typed for it"] == "objective.beta=0.3"
    assert alignlab("runs", "sweep=betas", "objective.beta<0.2").out.count("dpo-") == 1
    assert contents(old_runs) == contents(FIXTURE)


def test_an_old_run_is_shown(old_runs: Path, alignlab: Run) -> None:
    found = alignlab("runs", "show", "dpo-41b", "--full")
    assert found.code == 0, found.err
    for key, value in {
        "parent": SFT,
        "sweep": "betas",
        "objective.beta": "0.1",
        "model.parent": r"\['objective=sft', .*'trainer.max_steps=20'\]",
        "exact/kl": "0.11493",
    }.items():
        assert re.search(rf"^  {key} +{value}", found.out, re.M), key
    assert contents(old_runs) == contents(FIXTURE)


def test_the_config_of_an_old_run(old_runs: Path) -> None:
    """Its parent is a list of overrides, which is how version 0.1 described stages."""
    plan = recorded_plan(str(old_runs), HIGH, trust_remote_code=False)
    assert plan.train.objective.beta == 0.3  # type: ignore[attr-defined]
    assert plan.train.model.parent[0] == "objective=sft"
    assert plan.parent
    assert (plan.parent.id, plan.parent.train.trainer.max_steps) == (SFT, 20)


def test_an_old_run_is_evaluated(old_runs: Path, alignlab: Run, tmp_path: Path) -> None:
    """The numbers equal those of version 0.1."""
    (tmp_path / "length_rule.py").write_text("def length(prompt, answer):\n    return len(answer)\n")
    found = alignlab(
        "evaluate", "run=dpo-41b", "judge=gold", "judge.gold.function=length_rule:length", "evaluation.prompts=8"
    )
    assert found.code == 0, found.err
    assert "KL k1 (nats per answer): 0.259 [" in found.out
    assert re.search(r"^\| policy \| 2\.1 .* \| 1\.125 \[", found.out, re.M)
    assert re.search(r"^\| reference \| gold \| 0\.375 \[", found.out, re.M)
    (summary,) = old_runs.glob(f"runs/{LOW}/evaluation/*/summary.json")
    assert json.loads(summary.read_text())
    before, after = contents(FIXTURE), contents(old_runs)
    assert {name for name in before if before[name] != after[name]} <= {f"runs/{LOW}/run.json"}
