"""A sweep over data sets: each set has a table and a comparison of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from alignlab.integrity import write_sealed
from alignlab.reports.sweep import write_report
from alignlab.reports.tables import blocks_by_set
from alignlab.runs.directory import RunDir

# (set, beta, accuracies by seed): the best beta of `hh` is 0.1, that of `rasbt` 0.3
FOUND = [
    ("hh", "0.1", (0.72, 0.70, 0.71)), ("hh", "0.3", (0.62, 0.60, 0.61)),
    ("rasbt", "0.1", (0.82, 0.80, 0.81)), ("rasbt", "0.3", (0.92, 0.90, 0.91)),
]  # fmt: skip


def reported(root: Path, seeds: int) -> str:
    points: list[dict[str, Any]] = []
    for name, beta, accuracies in FOUND:
        for seed, accuracy in enumerate(accuracies[:seeds], 1):
            run_id = f"dpo-{name}-{beta}-{seed}"
            axes = {"data": name, "data.path": f"{name}.jsonl", "objective.beta": beta}
            points.append({"point": len(points), "run": run_id, **axes, **({"seed": str(seed)} if seeds > 1 else {})})
            summary = {"eval/pairs/accuracy": accuracy, "eval/pairs/margin": 1.0, "eval/pairs/kl": 1.0}
            run = RunDir.of(root, run_id)
            write_sealed(run.record_file, {"id": run_id, "status": "done", "summary": summary})
            run.metrics.write_text('{"train/global_step": 1, "train/loss": 0.6}\n')
    axes = ["data", "data.path", "objective.beta", *(["seed"] if seeds > 1 else [])]
    sweep = {"name": "s", "question": "", "axes": axes, "zip": [["data", "data.path"]], "points": points}
    write_sealed(root / "sweeps/s/sweep.json", {**sweep, "metric": "eval/pairs/accuracy", "better": "higher"})
    return write_report(root / "sweeps/s")


def test_one_block_for_each_set(tmp_path: Path) -> None:
    text = reported(tmp_path, seeds=1)
    first, second = text[text.index("## data hh") :].split("\n\n## data rasbt\n\n")
    assert [line.split(" | ")[:2] for line in first.splitlines()[4:]] == [["| 0.1", "0.720"], ["| 0.3", "0.620"]]
    assert [line.split(" | ")[:2] for line in second.splitlines()[2:]] == [["| 0.1", "0.820"], ["| 0.3", "0.920"]]


def test_settings_are_compared_within_a_set(tmp_path: Path) -> None:
    """The means over seeds are those of one set. Over both sets, beta 0.1 and 0.3 would both have 0.76."""
    text = reported(tmp_path, seeds=3)
    first, second = text[text.index("## data hh") :].split("\n\n## data rasbt\n\n")
    assert "| 0.1 | 3 | 0.710" in first
    assert "best" in first.splitlines()[4]
    assert "| 0.3 | 3 | 0.910" in second
    assert "best" in second.splitlines()[3]
    table = pd.read_csv(tmp_path / "sweeps/s/settings.csv")
    assert table["set"].tolist() == ["data hh", "data hh", "data rasbt", "data rasbt"]
    assert table["eval/pairs/accuracy"].tolist() == pytest.approx([0.71, 0.61, 0.81, 0.91])


def test_without_sets_there_is_one_block() -> None:
    frame = pd.DataFrame({"objective.beta": ["0.1"], "data.world_seed": ["0"], "data.flipped": ["0.1"]})
    assert [(name, own) for name, _, own in blocks_by_set(frame, ["objective.beta", "data.flipped"])] == [
        ("", ["objective.beta", "data.flipped"])
    ]
    assert [(name, own) for name, _, own in blocks_by_set(frame, ["objective.beta", "data.world_seed"])] == [
        ("world_seed 0", ["objective.beta"])
    ]
