"""Table and figures of a sweep, from its `sweep.json` and the directories of its runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alignlab.ledger.run_dir import RunDir, write_text
from alignlab.reports.tables import markdown, settings, sweep_frame
from alignlab.tracking.sinks.jsonl import read_rows


def write_report(directory: Path) -> str:
    """Write `table.md`, `table.csv` and `figures/` into a sweep's directory; return the table as text."""
    sweep = json.loads((directory / "sweep.json").read_text())
    root = directory.parents[1]
    runs = {point["run"]: RunDir.of(root, point["run"]) for point in sweep["points"]}
    records = {run_id: run.record() for run_id, run in runs.items()}
    frame = sweep_frame(sweep["points"], records)
    table = markdown(frame, sweep["axes"])
    heading = f"# {sweep['name']}\n\n" + (f"{sweep['question']}\n\n" if sweep["question"] else "")
    failures = [
        f"- point {p['point']} ({p['run']}): {records[p['run']].get('reason') or 'ended without a word'}"
        for p in sweep["points"]
        if records[p["run"]].get("status") in ("failed", "interrupted", "running")
    ]
    said = "".join(f"- {line}\n" for line in settings(records.values(), sweep["axes"]))
    text = f"{said}\n{table}" if said else table
    text += "\n\nnot finished:\n" + "\n".join(failures) if failures else ""
    write_text(directory / "table.md", f"{heading}{text}\n")
    write_text(directory / "table.csv", frame.to_csv(index=False))
    _figures(directory, sweep, runs, records)
    return text


def point_lines(directory: Path, run_id: str, *, first: bool) -> str:
    """The table's row of one point that has just finished; `first` puts the table's head above it."""
    sweep = json.loads((directory / "sweep.json").read_text())
    point = next(p for p in sweep["points"] if p["run"] == run_id)
    record = RunDir.of(directory.parents[1], run_id).record()
    lines = markdown(sweep_frame([point], {run_id: record}), sweep["axes"]).splitlines()
    return "\n".join(lines if first else lines[2:])


def _figures(
    directory: Path, sweep: dict[str, Any], runs: dict[str, RunDir], records: dict[str, dict[str, Any]]
) -> None:
    done = [p for p in sweep["points"] if records[p["run"]].get("status") == "done"]
    if not done:
        return
    from alignlab.reports.plots import curves_figure, frontier_figure  # a second to import, and only sweeps draw

    labels = {p["run"]: ", ".join(f"{axis.rpartition('.')[2]} {p[axis]}" for axis in sweep["axes"]) for p in done}
    title = sweep["question"] or sweep["name"]
    curves_figure(
        directory / "figures" / "curves.png",
        [(labels[p["run"]], read_rows(runs[p["run"]].metrics)) for p in done],
        title,
    )
    exact = [p["run"] for p in done if runs[p["run"]].frontier.is_file()]
    if exact:
        # one curve for each reference, the longest of those that its runs stored
        curves: dict[str, dict[str, Any]] = {}
        for run_id in sorted(exact, key=lambda run_id: records[run_id]["summary"]["exact/kl"]):
            reference = repr((records[run_id].get("model"), records[run_id]["summary"]["exact/reward_reference"]))
            curves[reference] = json.loads(runs[run_id].frontier.read_text())
        frontier_figure(
            directory / "figures" / "frontier.png",
            list(curves.values()),
            [{**records[run_id]["summary"], "label": labels[run_id]} for run_id in exact],
            title,
        )
