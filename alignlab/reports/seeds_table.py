"""Settings of a sweep (points that differ in their seed only): a table with intervals, and conclusions in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from alignlab.reports.comparison import (
    DEFAULT_METRICS,
    GAP,
    KL,
    LEAST_DISTANCE,
    METRICS_USED,
    SAME_KL,
    Group,
    Values,
    better_than_start,
    common_metric,
    compare,
    equal_kl,
    hardly_moved,
    strengths_to_add,
)
from alignlab.reports.tables import COLUMNS, label, table
from alignlab.statistics.intervals import Estimate, mean_interval
from alignlab.statistics.seeds import LEVEL, MOST_SEEDS, Comparison
from alignlab.tracking.metrics import BETTER

SEED = "seed"

# Means that differ by less look the same in a table, and count as tied.
_LEAST = 5e-4

_PERCENT = f"{LEVEL:.0%}".replace("%", " %")
_AT_EQUAL_KL = f" between settings of equal KL (within a factor of {SAME_KL})"

_COMPARED = ("difference to the best", "tied with it", "more seeds to tell")


def split_axes(axes: Sequence[str], zipped: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """Axes of settings, and axes of repetition: the seed and the axes that are zipped with it."""
    if SEED not in axes:
        return list(axes), []
    with_seed = {axis for group in zipped if SEED in group for axis in group} | {SEED}
    return [a for a in axes if a not in with_seed], [a for a in axes if a in with_seed]


@dataclass(frozen=True)
class Setting:
    """The values of a setting's axes, its points by seed, and the interval of each metric over finished points."""

    values: tuple[str, ...]
    points: Mapping[str, pd.Series]
    metrics: Mapping[str, Estimate]

    def by_seed(self, metric: str) -> dict[str, float]:
        """seed -> value of a metric, for finished points that have it as a finite number."""
        done = {seed: float(p[metric]) for seed, p in self.points.items() if p["status"] == "done" and metric in p}
        return {seed: value for seed, value in done.items() if math.isfinite(value)}


@dataclass(frozen=True)
class Settings:
    """All settings of a sweep and their comparison by one metric.

    metric: None if the settings can't be compared.
    better: lower or higher.
    asked:  whether the sweep names the metric.
    groups: settings that are compared with each other: all of them, or those with equal KL.
    """

    axes: list[str]
    rows: list[Setting]
    metric: str | None
    better: str
    asked: bool
    groups: list[Group]

    def name(self, setting: Setting) -> str:
        return label(self.axes, setting.values)

    @property
    def comparisons(self) -> dict[str, Comparison]:
        """Setting -> its comparison with the best of its group."""
        return {name: found for group in self.groups for name, found in group.comparisons.items()}

    @property
    def values(self) -> dict[str, Values]:
        """Setting -> the metrics that comparing uses."""
        metrics = dict.fromkeys([*METRICS_USED, *([self.metric] if self.metric else [])])
        return {self.name(row): {m: row.by_seed(m) for m in metrics} for row in self.rows}


def settings_of(
    frame: pd.DataFrame, axes: Sequence[str], repeated: Sequence[str], sweep: Mapping[str, Any]
) -> Settings:
    """All settings of a sweep, compared with the best.

    frame:    one row per point (tables.sweep_frame).
    axes:     axes of settings.
    repeated: axes of repetition.
    sweep:    content of sweep.json; its `metric` and `better` select the metric.
    """
    shown = [c for c in COLUMNS if c in frame.columns and frame[c].notna().any()]
    rows = []
    for values, points in _grouped(frame, axes):
        by_seed = {", ".join(str(point[axis]) for axis in repeated): point for _, point in points.iterrows()}
        rows.append(Setting(values, by_seed, {}))
    wanted = sweep.get("metric") or ""
    found = Settings(list(axes), rows, None, "", bool(wanted), [])
    metric = common_metric(found.values, axes) if not wanted else wanted if wanted in frame.columns else None
    better = sweep.get("better") or BETTER.get(metric or "", "lower")
    names = dict.fromkeys([*shown, *([metric] if metric else [])])
    rows = [replace(row, metrics={m: mean_interval(list(row.by_seed(m).values())) for m in names}) for row in rows]
    found = replace(found, rows=rows, metric=metric, better=better)
    if metric is None:
        return found
    at_equal_kl = metric == GAP and not wanted
    groups = equal_kl(found.values) if at_equal_kl else [list(found.values)]
    if at_equal_kl and len(groups) == 1:  # include settings without results
        groups = [list(found.values)]
    lower = better == "lower"
    return replace(found, groups=compare(found.values, metric, groups, lower=lower, least=_LEAST, asked=bool(wanted)))


def _grouped(frame: pd.DataFrame, axes: Sequence[str]) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    if not axes:
        yield (), frame
        return
    for values, points in frame.groupby(list(axes), sort=False):
        yield tuple(map(str, values)), points


def settings_markdown(found: Settings) -> str:
    """A Markdown table with one row per setting: axes, seeds, metrics as mean ± half of the interval, comparison."""
    shown = [c for c in COLUMNS if any(row.metrics[c].n for row in found.rows if c in row.metrics)]
    if found.metric and found.metric not in shown:
        shown.append(found.metric)
    compared = _COMPARED if found.comparisons else ()
    header = [*found.axes, "seeds", *(_heading(c) for c in shown), *compared]
    rows = []
    for row in found.rows:
        cells = [*row.values, _seeds(row, found.metric), *(_mean(row.metrics[c], _format(c)) for c in shown)]
        if found.comparisons:
            cells += _compared(found, found.name(row))
        rows.append(cells)
    return table(header, rows)


def settings_frame(found: Settings) -> pd.DataFrame:
    """The same table with all digits: mean, bounds and n of every metric."""
    rows = []
    for row in found.rows:
        cells: dict[str, Any] = dict(zip(found.axes, row.values, strict=True))
        for metric, interval in row.metrics.items():
            cells |= {metric: interval.value, f"{metric}/low": interval.low, f"{metric}/high": interval.high}
            cells[f"{metric}/n"] = interval.n
        if (comparison := found.comparisons.get(found.name(row))) is not None:
            difference = comparison.difference
            cells |= {"difference": difference.value if difference else 0.0}
            cells |= {f"difference/{end}": getattr(difference, end, None) for end in ("low", "high", "n")}
            cells |= {"tied": comparison.tied, "more_seeds": comparison.more_seeds}
        rows.append(cells)
    return pd.DataFrame(rows)


def conclusions(found: Settings, asked: str) -> Iterator[str]:
    """Sentences on the table: missing points, the metric of comparison, the best settings, and what is not known.

    asked: the metric that the sweep names; empty if it names none.
    """
    yield f"± is half of a {_PERCENT} t interval of the mean over seeds"
    for row in found.rows:
        lost = {seed: p for seed, p in row.points.items() if p["status"] != "done"}
        if lost:
            seeds = ", ".join(f"{seed} ({point['status']})" for seed, point in lost.items())
            rest = "its numbers are from the other seeds" if len(lost) < len(row.points) else "it has no numbers"
            yield f"{found.name(row) or 'this setting'} lacks seed {seeds}: {rest}"
    if len(found.rows) < 2:
        return
    if found.metric is None:
        yield from _why_not_compared(found, asked)
        yield from _hardly_moved(found)
        return
    where = _AT_EQUAL_KL if found.metric == GAP and not found.asked else ""
    yield (
        f"settings are compared by {_heading(found.metric)} ({found.better} is better){where}: differences to the "
        f"best, paired by seed, with t intervals that hold for all differences at once ({_PERCENT}, Bonferroni)"
    )
    yield from _settings_without_equal_kl(found)
    yield from _hardly_moved(found)
    for group in found.groups:
        yield from _group_conclusions(group, found)
    if any(c.tied and c.more_seeds for c in found.comparisons.values()):
        yield (
            "more seeds to tell: additional seeds that would separate the two with 80 % probability, if difference "
            f"and spread stay as they are (- : over {MOST_SEEDS:,})"
        )
    if found.asked:
        yield from _weak_settings(found)


def _why_not_compared(found: Settings, asked: str) -> Iterator[str]:
    if asked:
        yield f"settings are not compared: no finished run has {asked}"
        return
    with_results = {name: values for name, values in found.values.items() if any(values.values())}
    if not with_results:
        return
    lacking = []
    for metric in DEFAULT_METRICS[:-1]:
        without = [name for name, values in with_results.items() if not values[metric]]
        if len(without) < len(with_results):
            lacking.append(f"{_heading(metric)} is missing for {'; '.join(without)}")
    rest = ". ".join(lacking) or "losses of different objectives can't be compared"
    yield f"settings are not compared, since they have no metric in common that means the same for all: {rest}"
    yield "to rank them by another metric, type: sweep.metric=<name> sweep.better=lower|higher"


def _settings_without_equal_kl(found: Settings) -> Iterator[str]:
    """Sentences on settings whose KL no other setting has, and on strengths that would make them comparable."""
    if found.metric != GAP or found.asked:
        return
    kl = {name: mean_interval(list(values[KL].values())).value for name, values in found.values.items() if values[KL]}
    alone = [name for name in kl if not any(name in group.names for group in found.groups)]
    if not alone:
        return
    where = "; ".join(f"{name} ({kl[name]:.2f} nats)" for name in alone)
    if len(alone) == len(kl):
        yield f"no two settings have the same KL, so none is called best: {where}"
    else:
        yield f"no other setting has the KL of {where}: not compared"
    if more := strengths_to_add(found.axes, {row.values: kl[n] for row in found.rows if (n := found.name(row)) in kl}):
        yield more


def _group_conclusions(group: Group, found: Settings) -> Iterator[str]:
    """Sentences on the best setting of a group, and on those that are tied with it."""
    if len(found.groups) == 1 and len(group.names) == len(found.rows):
        where = ""
    else:
        kl = [mean_interval(list(found.values[name][KL].values())).value for name in group.names]
        where = f"at a KL of {min(kl):.2f} to {max(kl):.2f} nats: "
    still = [n for n in group.names if better_than_start(found.values[n], found.metric or "") is False]
    if still and not found.asked:
        names = "; ".join(still)
        yield f"{where}not known to be better than the start ({_PERCENT} interval), so not called best: {names}"
    if group.best is None:
        if any(found.values[name].get(found.metric or "") for name in group.names):
            which = "no setting that moved" if group.still else "no setting"
            yield f"{where}{which} is known to be better than the start: none is called best"
        return
    comparisons = group.comparisons
    unknown = [name for name, c in comparisons.items() if c.tied is None]
    if len(unknown) == len(comparisons) - 1:
        yield f"{where}no setting has two seeds in common with another: nothing is known about which is best"
        return
    no_better = [] if found.asked else [*still, *group.still]
    tied = [name for name, c in comparisons.items() if c.tied and name not in (group.best, *no_better)]
    beside = [name for name, c in comparisons.items() if c.tied and name in no_better]
    known = " of those that can be compared" if unknown else ""
    if any(c.difference and abs(c.difference.value) < _LEAST for c in comparisons.values()):
        yield f"settings whose means differ by less than {_LEAST} count as tied, however many seeds there are"
    if tied:
        names = "; ".join(tied)
        yield f"{where}best{known}: {group.best}, tied with {names}: the best{known} is one of these ({_PERCENT})"
    else:
        other = "no other that is better than the start" if beside else "no other"
        if any(name in group.still for name in beside):
            other = "no other that moved and is better than the start"
        yield f"{where}best{known}: {group.best}; {other} is tied with it"
    if unknown:
        yield f"{where}unknown, because they have fewer than two seeds in common with the best: {'; '.join(unknown)}"


def _hardly_moved(found: Settings) -> Iterator[str]:
    """A sentence on settings that hardly moved from the start. It says whether this keeps them from being best."""
    little = hardly_moved(found.values)
    if not little:
        return
    everyone = len(little) == sum(any(values.values()) for values in found.values.values())
    limit = f"less than {LEAST_DISTANCE} nats per pair" if everyone else "less than a quarter of the farthest"
    so = ", so not called best" if any(name in group.still for group in found.groups for name in little) else ""
    names = "; ".join(f"{name} ({how_far:.2g} nats)" for name, how_far in little.items())
    yield f"hardly moved from the start ({limit}){so}: {names}"


def _weak_settings(found: Settings) -> Iterator[str]:
    """Sentences on settings that are not better than the start, for a metric that the user chose."""
    values = found.values
    for metric in (GAP, "eval/pairs/accuracy"):
        if still := [name for name in values if better_than_start(values[name], metric) is False]:
            by = "exact reward" if metric == GAP else _heading(metric)
            yield f"not better than the start by {by}, beyond its interval: {'; '.join(still)}"


def _heading(metric: str) -> str:
    return COLUMNS[metric][0] if metric in COLUMNS else metric


def _format(metric: str) -> str:
    return COLUMNS[metric][1] if metric in COLUMNS else ".4g"


def _seeds(row: Setting, metric: str | None) -> str:
    done = len(row.by_seed(metric)) if metric else sum(p["status"] == "done" for p in row.points.values())
    return str(done) if done == len(row.points) else f"{done} of {len(row.points)}"


def _mean(interval: Estimate, form: str) -> str:
    if interval.n == 0:
        return ""
    return format(interval.value, form) + (f" ± {interval.half:{form}}" if interval.n > 1 else "")


def _compared(found: Settings, name: str) -> list[str]:
    """Cells that compare a setting with the best of its group; empty strings if it is not compared."""
    comparison, form = found.comparisons.get(name), _format(found.metric or "")
    if comparison is None:
        return ["", "", ""]
    if comparison.difference is None:  # the best; not known to be the best if no other can be compared with it
        (group,) = [group for group in found.groups if group.best == name]
        alone = all(other.tied is None for key, other in group.comparisons.items() if key != name)
        return ["unknown" if alone else "best", "", ""]
    interval = comparison.difference
    if comparison.tied is None:
        return ["unknown" if not interval.n else f"{interval.value:+{form}}", "unknown", "unknown"]
    bounds = f"{interval.value:+{form}} [{interval.low:+{form}}, {interval.high:+{form}}]"
    more = str(comparison.more_seeds) if comparison.more_seeds is not None else "-"
    return [bounds, "yes" if comparison.tied else "no", more if comparison.tied else ""]
