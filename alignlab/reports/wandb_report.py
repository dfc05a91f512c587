"""A W&B report of a sweep or of runs: our tables with intervals as text, and live panels for curves.

W&B's panels know no confidence intervals, and grouped panels sample their runs. So every mean, interval and statement
is text that alignlab computed, and the panels show single runs only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignlab.errors import OutputError
from alignlab.integrity import write_sealed, write_text
from alignlab.reports.collect import Collected
from alignlab.reports.sweep import write_report as write_tables
from alignlab.reports.tables import blocks_by_set, in_blocks, markdown
from alignlab.runs.directory import RunDir
from alignlab.runs.sweep_record import read_sweep_record
from alignlab.tracking.sinks.jsonl import STEP
from alignlab.tracking.sinks.wandb import Wandb, has_key

# The key of `sweep.json` with the id of the report, and the file of its spec in the folder of the sweep. The spec of a
# report about runs keeps its own id.
REPORT_ID, SPEC = "wandb_report", "wandb_report.json"

_LONGEST_TITLE = 128  # characters, a limit of W&B
_WIDTH, _HEIGHT, _COLUMNS = 8, 6, 3  # of a panel, in W&B's grid of 24 columns

# Curves that are shown if runs have them, in this order.
_CURVES = (
    "train/loss", "eval/loss", "train/rewards/margins", "train/rewards/accuracies", "train/objective/kl",
    "train/objective/scores", "eval/pairs/margin", "eval/pairs/accuracy",
)  # fmt: skip
# KL and reward of a run: the first pair that runs have is drawn as a scatter plot.
_FRONTIERS = (
    ("exact/kl", "exact/reward"), ("eval/kl_ref/sequence_k1", "eval/pairs/accuracy"),
    ("eval/objective/kl", "eval/objective/scores"),
)  # fmt: skip

# Images that runs and sweeps log.
_FIGURES = ("figures/frontier", "figures/reward_kl", "figures/curves")


def write_report(directory: Path) -> str:
    """Publish the W&B report of a sweep, or update the one that was published before. Returns lines to print.

    The spec is written to `wandb_report.json` in the folder of the sweep in any case. Without a login, or with
    WANDB_MODE=offline, nothing is sent.

    Raises OutputError if the package wandb-workspaces is missing or if W&B refuses the report.
    """
    sweep = read_sweep_record(directory)
    root, name = directory.parents[1], sweep["name"]
    records = [RunDir.of(root, point["run"]).state() for point in sweep["points"]]
    report = build_report(
        name, sweep["question"], sweep["axes"], _has("sweep/id", [name]), write_tables(directory), records
    )
    report.id = before = sweep.get(REPORT_ID, "")
    text = _written(report, directory, name)
    if report.id != before:
        write_sealed(directory / "sweep.json", {**sweep, REPORT_ID: report.id})
    return text


def write_report_of_runs(found: Collected, typed: str) -> str:
    """Publish the W&B report of runs, or update the one about the same runs. Returns lines to print.

    The spec is written to `<output_root>/reports/<name>/wandb_report.json`, which also keeps the id of the report.

    typed: what names these runs on a command line.
    Raises OutputError if the package wandb-workspaces is missing or if W&B refuses the report.
    """
    folder = found.root / "reports" / found.name
    tables = in_blocks((name, markdown(part, own)) for name, part, own in blocks_by_set(found.frame, found.axes))
    ids = [point["run"] for point in found.points]
    records = [found.records[run] for run in ids]
    report = build_report(found.name, found.question, found.axes, _has("job/hash", ids), tables, records)
    report.id = _earlier_id(folder / SPEC)
    return _written(report, folder, typed)


def _written(report: Any, folder: Path, typed: str) -> str:
    """Publish a report if there is a login, and write its spec to a folder. Returns lines to print."""
    login = has_key() and os.environ.get("WANDB_MODE", "online") == "online"
    if login:
        _publish(report)
    # There is no public function that returns the spec.
    spec = report._to_model().spec.model_dump(by_alias=True, exclude_none=True, mode="json")
    about = {"project": report.project, "entity": report.entity, "title": report.title, "id": report.id}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / SPEC, json.dumps({**about, "spec": spec}, indent=2) + "\n")
    if login:
        return f"W&B report: {report.url}"
    fix = f"wandb login, then: alignlab report --wandb {typed}"
    return f"W&B report: not published, because there is no login\n  type: {fix}\nspec: {folder / SPEC}"


def _earlier_id(file: Path) -> str:
    """The id of the report whose spec a file holds; empty if there is none, or if it was not published."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(found.get("id") or "") if isinstance(found, dict) else ""


def build_report(
    name: str, question: str, axes: Sequence[str], filters: str, tables: str, records: Sequence[Mapping[str, Any]]
) -> Any:
    """A report as an object of wandb-workspaces. Nothing is sent.

    filters: the expression of wandb-workspaces that selects the runs.
    tables:  tables and conclusions, Markdown.
    records: of the runs.
    """
    reports = _library()
    places = (r.get("config", {}).get("tracking", {}).get("wandb") for r in records)
    place: Mapping[str, Any] = next((found for found in places if found), {})
    metrics = {metric for record in records for metric in record.get("summary", {})}
    runs = reports.Runset(name=name, filters=filters)
    return reports.Report(
        project=place.get("project") or Wandb.project,
        entity=place.get("entity") or "",
        title=name[:_LONGEST_TITLE],
        description=question,
        blocks=[
            *([reports.P(question)] if question else []),
            reports.H2("Settings"),
            reports.MarkdownBlock(tables),
            reports.H2("Curves"),
            reports.PanelGrid(runsets=[runs], panels=list(_laid_out(reports, _panels(reports, metrics, axes)))),
        ],
        width="fluid",
    )


def _panels(reports: Any, names: set[str], axes: Sequence[str]) -> list[Any]:
    """Panels of the metrics that the runs have: curves, reward or accuracy against KL, and tools to compare runs."""
    panels = [reports.LinePlot(title=name, x=STEP, y=[name]) for name in _CURVES if name in names]
    winrates = sorted(n for n in names if n == "exact/winrate" or (n.startswith("eval/winrate/") and n.count("/") == 2))
    panels += [reports.BarPlot(title=f"{name} (no interval)", metrics=[name]) for name in winrates]
    for kl, reward in _FRONTIERS:
        if {kl, reward} <= names:
            title = f"{reward} against {kl}"
            panels.append(
                reports.ScatterPlot(title=title, x=reports.SummaryMetric(kl), y=reports.SummaryMetric(reward))
            )
            columns = [
                *(reports.Config(axis) for axis in axes),
                reports.SummaryMetric(kl),
                reports.SummaryMetric(reward),
            ]
            panels.append(
                reports.ParallelCoordinatesPlot(columns=[reports.ParallelCoordinatesPlotColumn(c) for c in columns])
            )
            break
    panels.append(reports.MediaBrowser(title="figures", media_keys=list(_FIGURES)))
    return [*panels, reports.RunComparer(diff_only="split")]


def _laid_out(reports: Any, panels: Iterable[Any]) -> Iterable[Any]:
    for i, panel in enumerate(panels):
        row, column = divmod(i, _COLUMNS)
        panel.layout = reports.Layout(x=column * _WIDTH, y=row * _HEIGHT, w=_WIDTH, h=_HEIGHT)
        yield panel


def _publish(report: Any) -> None:
    """Save the report on the server. If it has an id, it replaces the report that has this id there."""
    import wandb

    if not report.entity:
        report.entity = wandb.Api().default_entity or ""
    try:
        report.save()
    except Exception as error:  # of the network, of W&B or of the server; their types are not documented
        raise OutputError(f"W&B refused the report: {error}\n  the page of the report has the same tables") from error


def _library() -> Any:
    """`wandb_workspaces.reports.v2`. Raises OutputError if it is not installed."""
    try:
        import wandb_workspaces.reports.v2 as reports
    except ImportError as error:
        fix = 'pip install "alignlab[reports]"'
        raise OutputError(f"W&B reports need the package wandb-workspaces\n  type: {fix}") from error
    return reports


def _has(key: str, values: Sequence[str]) -> str:
    """The expression of wandb-workspaces for runs whose config has one of these values."""
    return f"Config('{key}') = {values[0]!r}" if len(values) == 1 else f"Config('{key}') in {list(values)!r}"
