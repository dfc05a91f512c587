"""Points that differ in their seed only, as one setting: a row of a table with intervals, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from alignlab.reports.seeds import LEVEL, MOST_SEEDS, Comparison, Interval, compare_with_best, mean_interval
from alignlab.reports.tables import COLUMNS, label, table
from alignlab.tracking.metrics import BETTER

SEED = "seed"

# Means that differ by less look the same in a table.
_LEAST = 5e-4

_COMPARED = ("difference to the best", "tied with it", "more seeds to tell")


def split_axes(axes: Sequence[str], zipped: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """Axes of settings and axes of repetition: the seed, and whatever is walked together with it."""
    if SEED not in axes:
        return list(axes), []
    with_seed = {axis for group in zipped if SEED in group for axis in group} | {SEED}
    return [a for a in axes if a not in with_seed], [a for a in axes if a in with_seed]


@dataclass(frozen=True)
class Setting:
    """One setting's axes, its points by seed, and of those that are done the interval of each metric."""

    values: tuple[str, ...]
    points: Mapping[str, pd.Series]
    metrics: Mapping[str, Interval]

    def by_seed(self, metric: str) -> dict[str, float]:
        """seed -> metric, of points that are done and have it as a finite number."""
        done = {seed: float(p[metric]) for seed, p in self.points.items() if p["status"] == "done" and metric in p}
        return {seed: value for seed, value in done.items() if math.isfinite(value)}


@dataclass(frozen=True)
class Settings:
    """All settings of a sweep, and how they compare in one metric; `metric` is None where no run has one to compare."""

    axes: list[str]
    rows: list[Setting]
    metric: str | None
    better: str
    best: str | None
    comparisons: Mapping[str, Comparison]

    def name(self, setting: Setting) -> str:
        return label(self.axes, setting.values)


def settings_of(
    frame: pd.DataFrame, axes: Sequence[str], repeated: Sequence[str], sweep: Mapping[str, Any]
) -> Settings:
    """frame: one row a point (tables.sweep_frame); sweep: sweep.json, whose `metric` and `better` decide."""
    shown = [c for c in COLUMNS if c in frame.columns and frame[c].notna().any()]
    wanted = sweep.get("metric") or ""
    metric = wanted if wanted in frame.columns else next((m for m in BETTER if m in shown and not wanted), None)
    better = sweep.get("better") or BETTER.get(metric or "", "lower")
    rows = []
    for values, points in _grouped(frame, axes):
        by_seed = {", ".join(str(point[axis]) for axis in repeated): point for _, point in points.iterrows()}
        empty = Setting(values, by_seed, {})
        names = dict.fromkeys([*shown, *([metric] if metric else [])])
        rows.append(Setting(values, by_seed, {m: mean_interval(list(empty.by_seed(m).values())) for m in names}))
    best: str | None = None
    comparisons: dict[str, Comparison] = {}
    if metric and len(rows) > 1:
        named = {label(axes, row.values): row.by_seed(metric) for row in rows}
        best, comparisons = compare_with_best(named, lower_is_better=better == "lower", least=_LEAST)
    return Settings(list(axes), rows, metric, better, best, comparisons)


def _grouped(frame: pd.DataFrame, axes: Sequence[str]) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    if not axes:
        yield (), frame
        return
    for values, points in frame.groupby(list(axes), sort=False):
        yield tuple(map(str, values)), points


def settings_markdown(found: Settings) -> str:
    """One row a setting: axes, seeds, metrics as mean ± half of the interval, and how it compares."""
    shown = [c for c in COLUMNS if any(row.metrics[c].n for row in found.rows if c in row.metrics)]
    if found.metric and found.metric not in shown:
        shown.append(found.metric)
    compared = _COMPARED if found.comparisons else ()
    header = [*found.axes, "seeds", *(_heading(c) for c in shown), *compared]
    rows = []
    for row in found.rows:
        cells = [*row.values, _seeds(row, found.metric), *(_mean(row.metrics[c], _format(c)) for c in shown)]
        if found.comparisons:
            alone = all(c.tied is None for name, c in found.comparisons.items() if name != found.best)
            cells += _compared(found.comparisons[found.name(row)], _format(found.metric or ""), alone)
        rows.append(cells)
    return table(header, rows)


def settings_frame(found: Settings) -> pd.DataFrame:
    """The same with all digits: for every metric mean, bounds and n."""
    rows = []
    for row in found.rows:
        cells: dict[str, Any] = dict(zip(found.axes, row.values, strict=True))
        for metric, interval in row.metrics.items():
            cells |= {metric: interval.mean, f"{metric}/low": interval.low, f"{metric}/high": interval.high}
            cells[f"{metric}/n"] = interval.n
        if found.comparisons:
            said = found.comparisons[found.name(row)]
            cells |= {"difference": said.difference.mean if said.difference else 0.0}
            cells |= {f"difference/{end}": getattr(said.difference, end, None) for end in ("low", "high", "n")}
            cells |= {"tied": said.tied, "more_seeds": said.more_seeds}
        rows.append(cells)
    return pd.DataFrame(rows)


def conclusions(found: Settings, asked: str) -> Iterator[str]:
    """What the table comes to, in sentences; what is not known is said to be so."""
    percent = f"{LEVEL:.0%}".replace("%", " %")
    yield f"± is half of a {percent} t interval of the mean over seeds"
    for row in found.rows:
        lost = {seed: p for seed, p in row.points.items() if p["status"] != "done"}
        if lost:
            said = ", ".join(f"{seed} ({point['status']})" for seed, point in lost.items())
            rest = "its numbers are those of the others" if len(lost) < len(row.points) else "it has no numbers"
            yield f"{found.name(row) or 'this setting'} is without seed {said}: {rest}"
    if found.metric is None:
        if asked:
            yield f"settings are not compared: no finished run has {asked}"
        return
    if not found.comparisons:
        return
    unknown = [name for name, c in found.comparisons.items() if c.tied is None]
    yield (
        f"settings are compared by {_heading(found.metric)} ({found.better} is better), as differences to the best "
        f"paired by seed, with t intervals that hold for all of them at once ({percent}, Bonferroni)"
    )
    if found.metric == "exact/frontier_gap":
        yield "a policy that stays where it started has no gap: among settings with different KL, read it beside the KL"
    if len(unknown) == len(found.comparisons) - 1:
        yield "no setting has two seeds in common with another: nothing is known about which is best"
        return
    tied = [name for name, c in found.comparisons.items() if c.tied and name != found.best]
    known = " of those that can be compared" if unknown else ""
    if any(c.difference and abs(c.difference.mean) < _LEAST for c in found.comparisons.values()):
        yield f"settings whose means differ by less than {_LEAST} count as tied, however many seeds there are"
    if tied:
        yield f"best{known}: {found.best}, tied with {'; '.join(tied)}: the best{known} is one of these ({percent})"
        told = f"told apart with 80 % probability if difference and spread stay what they are (- : over {MOST_SEEDS:,})"
        yield f"more seeds to tell: so many more, and the two would be {told}"
    else:
        yield f"best{known}: {found.best}; no other is tied with it"
    if unknown:
        yield f"unknown, for want of two seeds in common with the best: {'; '.join(unknown)}"


def _heading(metric: str) -> str:
    return COLUMNS[metric][0] if metric in COLUMNS else metric


def _format(metric: str) -> str:
    return COLUMNS[metric][1] if metric in COLUMNS else ".4g"


def _seeds(row: Setting, metric: str | None) -> str:
    done = len(row.by_seed(metric)) if metric else sum(p["status"] == "done" for p in row.points.values())
    return str(done) if done == len(row.points) else f"{done} of {len(row.points)}"


def _mean(interval: Interval, form: str) -> str:
    if interval.n == 0:
        return ""
    return format(interval.mean, form) + (f" ± {interval.half:{form}}" if interval.n > 1 else "")


def _compared(said: Comparison, form: str, alone: bool) -> list[str]:
    """alone: nothing can be compared with the best, which is then not known to be it."""
    if said.difference is None:
        return ["unknown" if alone else "best", "", ""]
    if said.tied is None:
        return ["unknown" if not said.difference.n else f"{said.difference.mean:+{form}}", "unknown", "unknown"]
    interval = said.difference
    bounds = f"{interval.mean:+{form}} [{interval.low:+{form}}, {interval.high:+{form}}]"
    more = str(said.more_seeds) if said.more_seeds is not None else "-"
    return [bounds, "yes" if said.tied else "no", more if said.tied else ""]
