"""Tables from records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from alignlab.ledger.run_dir import RunDir, write_json
from alignlab.reports.sweep import write_report
from alignlab.reports.tables import COLUMNS, headline, markdown, sweep_frame
from alignlab.tracking.metrics import check_known

POINTS = [{"point": 0, "run": "dpo-a", "objective.beta": "0.1"}, {"point": 1, "run": "dpo-b", "objective.beta": "0.3"}]
RECORDS: dict[str, dict[str, Any]] = {
    "dpo-a": {"id": "dpo-a", "status": "done", "summary": {"eval/loss": 0.51239, "exact/kl": 2.0, "exact/reward": 1.0}},
    "dpo-b": {"id": "dpo-b", "status": "failed", "reason": "RuntimeError: x"},
}


def test_columns_are_known_metrics() -> None:
    check_known(COLUMNS)


def test_markdown_shows_what_there_is() -> None:
    assert markdown(sweep_frame(POINTS, RECORDS), ["objective.beta"]).splitlines() == [
        "| objective.beta | eval loss | exact KL (nats) | exact reward | status | run |",
        "|---|---|---|---|---|---|",
        "| 0.1 | 0.5124 | 2.000 | 1.000 | done | dpo-a |",
        "| 0.3 |  |  |  | failed | dpo-b |",
    ]
    assert headline(RECORDS["dpo-a"]) == "dpo-a done: eval loss 0.5124, exact KL (nats) 2.000, exact reward 1.000"


def test_a_report_is_made_of_files_alone(tmp_path: Path) -> None:
    directory = tmp_path / "sweeps" / "s"
    write_json(
        directory / "sweep.json", {"name": "s", "question": "Why?", "axes": ["objective.beta"], "points": POINTS}
    )
    for run_id, record in RECORDS.items():
        run = RunDir.of(tmp_path, run_id)
        summary = {**record.get("summary", {}), "exact/frontier_reward": 1.5, "exact/reward_reference": 0.0}
        write_json(run.record_file, {**record, "summary": summary})
    done = RunDir.of(tmp_path, "dpo-a")
    write_json(done.frontier, {"kl": [0.0, 1.0, 3.0], "reward": [0.0, 1.2, 1.8]})
    done.metrics.write_text(json.dumps({"train/global_step": 1, "train/loss": 0.69}) + "\n")
    text = write_report(directory)
    assert "RuntimeError: x" in text
    table = pd.read_csv(directory / "table.csv")
    assert table["status"].tolist() == ["done", "failed"]
    assert (directory / "table.md").read_text().startswith("# s\n\nWhy?\n")
    assert (directory / "figures/frontier.png").is_file()
    assert (directory / "figures/curves.png").is_file()
