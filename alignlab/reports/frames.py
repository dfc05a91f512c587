"""Metrics of a run, evaluations, and settings of a sweep as pandas tables, for notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from alignlab.evaluation.benchmarked import flat_benchmarks
from alignlab.evaluation.summary import flat
from alignlab.reports.answer import answers_of
from alignlab.reports.collect import Collected
from alignlab.reports.means import ends
from alignlab.runs.directory import RunDir
from alignlab.tracking.sinks.jsonl import read_rows


def metrics_frame(run: RunDir) -> pd.DataFrame:
    """One row for each logged step, one column for each metric."""
    return pd.DataFrame(read_rows(run.metrics))


def evaluations_frame(found: Mapping[str, tuple[Path, Mapping[str, Any]]]) -> pd.DataFrame:
    """One row for each run: the folder of its evaluation, and its numbers under the names that records give them.

    found: run -> (folder, summary). A reward model has no such numbers.
    """
    rows = [{"run": run, "folder": str(folder), **_named(summary)} for run, (folder, summary) in found.items()]
    return pd.DataFrame(rows).set_index("run")


def _named(summary: Mapping[str, Any]) -> dict[str, float]:
    found = flat(dict(summary), "reference") if "kl" in summary else flat_benchmarks(summary.get("benchmarks", {}))
    return {f"eval/{name}": value for name, value in found}


def settings_frame(found: Collected) -> pd.DataFrame:
    """One row for each setting: its axes, its runs, and every metric with its mean and 95 % t interval over seeds.

    Metrics of sampled answers have intervals over seeds and prompts, if all runs answered the same prompts.

    `runs` counts the runs of a setting, and `done` those that finished; the means are over the latter. A metric has
    three columns: `<metric>`, `<metric> low` and `<metric> high`. One seed has no interval (NaN). If the runs used
    several data sets, the column `data` names the set. `attrs` holds the name of the sweep, its folder, and the
    sentences of the report's answer.
    """
    rows: list[dict[str, Any]] = []
    sentences = [f"{name}: {text}" if name else text for name, told in answers_of(found) for text in told]
    for name, settings in found.settings:
        for setting in settings.compared.settings:
            row: dict[str, Any] = {"data": name} if name else {}
            row |= dict(zip(settings.compared.axes, map(_number, setting.values), strict=True))
            points = settings.points[setting.name].values()
            row |= {"runs": len(points), "done": sum(point["status"] == "done" for point in points)}
            for metric, mean in setting.means.items():
                low, high = ends(metric, mean.low, mean.high)
                row |= {metric: mean.value, f"{metric} low": low, f"{metric} high": high}
            rows.append(row)
    frame = pd.DataFrame(rows)
    frame.attrs = {"name": found.name, "folder": str(found.folder or ""), "answer": sentences}
    return frame


def _number(text: str) -> Any:
    """The value of an axis as a number, if it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
