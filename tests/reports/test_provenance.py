"""The command that makes a sweep again, and what decided its numbers."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from alignlab.integrity import write_sealed
from alignlab.reports.collect import read_sweep
from alignlab.reports.provenance import commands, facts
from alignlab.runs.directory import RunDir
from tests.reports.made_sweep import run_id, write


def test_a_full_grid_is_one_command(tmp_path: Path) -> None:
    folder = write(tmp_path, text="a b's")
    (line,) = commands(read_sweep(folder))
    assert shlex.split(line) == [
        "alignlab", "train", "data.path=a b's", "judge.llm.api_key=(hidden)", "-m", "objective=dpo,ipo",
        "strength=0.1,1.0", "seed=1,2,3",
    ]  # fmt: skip


def test_other_shapes_are_one_command_for_each_point(tmp_path: Path) -> None:
    folder = write(tmp_path)
    sweep = json.loads((folder / "sweep.json").read_text())
    points = sweep["points"][:5]
    write_sealed(folder / "sweep.json", {**{k: v for k, v in sweep.items() if k != "sha256"}, "points": points})
    lines = commands(read_sweep(folder))
    assert len(lines) == 5
    assert lines[4].endswith("objective=dpo strength=1.0 seed=2")
    RunDir.of(tmp_path, points[0]["run"]).update(overrides=[])
    assert len(commands(read_sweep(folder))) == 4, "an older record has no overrides"


def test_facts_are_counted_where_runs_differ(tmp_path: Path) -> None:
    folder = write(tmp_path)
    RunDir.of(tmp_path, run_id("dpo", "0.1", "1")).update(versions={"torch": "2.14"}, objective={"beta": 1})
    found = dict(facts(read_sweep(folder)))
    assert found["torch"] == "2.14 (1 run), 2.13 (11 runs)"
    assert found["alignlab's revision"] == "abc"
    assert found["from, to"] == "2026-01-01T00:00:00+00:00 to 2026-01-01T00:00:02+00:00"
