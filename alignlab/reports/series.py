"""The numbers behind the figures of a sweep, as pandas frames with one row per setting.

Intervals have a level of 95 %. They are t intervals over seeds, or over seeds and prompts together where answers were
sampled. With one seed they are over prompts, and a metric without prompts has no interval. The column `over` says what
they are over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from alignlab.errors import DamagedError
from alignlab.evaluation.by_prompt import OfRun
from alignlab.integrity import read_record
from alignlab.reports.collect import Collected, asked_file
from alignlab.reports.curves import CURVES, faults_of_metrics, logged, rows_of
from alignlab.reports.means import numbers_in_range
from alignlab.reports.seeds_table import Settings
from alignlab.reports.tables import COLUMNS, columns_of
from alignlab.runs.record import is_number
from alignlab.statistics.comparison import COUNTS, over_rows_too
from alignlab.statistics.intervals import Estimate, mean_interval, normal_quantile, t_quantile
from alignlab.statistics.seeds_and_prompts import Crossed, pooled_rate

KL, REWARD = "exact/kl", "exact/reward"
SAMPLED_KL = "eval/kl_ref/sequence_k1"

# The largest number of curves in one figure that have bands. The bands of more of them cover each other.
MOST_BANDS = 4

# Kinds of measures whose reward is the score of a judge, or the win-rate by a judge.
_SCORE, _RATE = "score by ", "win-rate by "

# The largest number of points of one curve. Longer curves are averaged in bins of equal width.
MOST_POINTS = 60

_WIN_RATE = re.compile(r"(?P<split>eval|exact|questions/(?P<file>[^/]+))/winrate(?:/(?P<judge>[^/]+))?")


@dataclass(frozen=True)
class Measure:
    """One run's KL and reward.

    kind:       exact, or the judge or objective whose scores are the reward.
    kl, reward: with the interval over prompts, whose bounds are NaN for exact numbers.
    """

    kind: str
    kl: Estimate
    reward: Estimate


def settings_points(found: Collected) -> dict[str, list[dict[str, Any]]]:
    """Setting -> its finished points, in the order of the sweep."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for point in found.done:
        groups.setdefault(found.setting(point), []).append(point)
    return groups


def metric_frame(found: Collected, metric: str) -> pd.DataFrame:
    """A metric of the summary by setting.

    Columns: setting, line, strength, value, low, high, n, over. Settings without the metric have no row.
    """
    rows = []
    for name, points in settings_points(found).items():
        values = [_value(found, point, metric) for point in points]
        finite = [value for value in values if value is not None]
        if not finite:
            continue
        with_prompts = [e for point in points if (e := _over_prompts(found, point, metric)) is not None]
        numbers = _pooled(found, points, metric) if len(finite) == len(points) else None
        numbers = numbers or _agreeing(found, points, metric) or _estimate(finite, with_prompts)
        rows.append({**_about(found, name, points[0]), **numbers_in_range(metric, numbers)})
    return _frame(rows, ["setting", "line", "strength", "value", "low", "high", "n", "over"])


def means_by_setting(found: Collected, settings: Settings) -> dict[str, dict[str, dict[str, Any]]]:
    """Metric -> setting -> its row of `metric_frame`, for the settings of one data set and the metrics that are drawn.

    A setting is named as in its data set, without the axes that choose the set.
    """
    points = {point["run"]: point for point in found.points}
    names = {name: found.setting(points[next(iter(of.values()))["run"]]) for name, of in settings.points.items()}
    means: dict[str, dict[str, dict[str, Any]]] = {}
    for metric in strength_metrics(found):
        records: list[Any] = metric_frame(found, metric).to_dict("records")
        rows = {str(row["setting"]): row for row in records}
        means[metric] = {name: rows[whole] for name, whole in names.items() if whole in rows}
    return means


def _agreeing(found: Collected, points: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any] | None:
    """A share of held-out rows on which all seeds agree, with its interval over these rows; None for anything else."""
    summaries = {str(i): found.records[point["run"]]["summary"] for i, point in enumerate(points)}
    values = {name: {i: of[name] for i, of in summaries.items() if name in of} for name in (metric, *COUNTS)}
    mean = mean_interval(list(values[metric].values()))
    widened = over_rows_too(mean, values, metric)
    if widened is mean:
        return None
    return {"value": mean.value, "low": widened.low, "high": widened.high, "n": mean.n, "over": "held-out rows"}


def gap_frame(found: Collected) -> pd.DataFrame:
    """The parts of the gap to the frontier by setting (`alignlab plot gap` measures them), as means over seeds.

    Columns: setting, line, strength, part, value, low, high, n, over, unbounded (number of runs whose loss has no
    minimum). Runs without parts are left out.
    """
    rows = []
    for name, points in settings_points(found).items():
        read = [gap for point in points if (gap := _gap(found, point))]
        for part in dict.fromkeys(part for gap in read for part in gap["parts"]):
            values = [float(gap["parts"][part]) for gap in read if part in gap["parts"]]
            unbounded = sum(bool(gap["unbounded"]) for gap in read)
            about = {**_about(found, name, points[0]), "part": part, "unbounded": unbounded}
            rows.append({**about, **_estimate(values, [])})
    return _frame(rows, ["setting", "line", "strength", "part", "value", "low", "high", "n", "over", "unbounded"])


def _gap(found: Collected, point: Mapping[str, Any]) -> dict[str, Any]:
    """`parts` and `unbounded` of the gap of a point; empty if they are not known or have other types."""
    file = found.run(point).gap
    try:
        gap = read_record(file) if file.is_file() else {}
    except (DamagedError, OSError):
        return {}
    parts = gap.get("parts")
    fits = isinstance(parts, dict) and all(map(is_number, parts.values()))
    return {"parts": parts, "unbounded": bool(gap.get("unbounded"))} if fits else {}


def frontier_frame(found: Collected) -> pd.DataFrame:
    """KL and reward by setting: exact if the runs have exact numbers, otherwise from sampled answers and their scores.

    Columns: setting, line, strength, kind, n, over, and value, low and high of both, such as kl, kl_low, kl_high.
    Kinds of measures are never mixed: the frame holds those of the kind that most runs have.
    """
    rows = []
    for name, group in _measured(found).items():
        estimates: dict[str, float] = {}
        for part in ("kl", "reward"):
            singles: list[Estimate] = [getattr(measure, part) for _, measure in group]
            metric = _metric_of(group[0][1].kind, part)
            pooled = _pooled(found, [point for point, _ in group], metric)
            numbers = numbers_in_range(metric, pooled or _estimate([one.value for one in singles], singles))
            estimates |= {
                f"{part}{'' if end == 'value' else f'_{end}'}": numbers[end] for end in ("value", "low", "high")
            }
        about = {**_about(found, name, group[0][0]), "kind": group[0][1].kind, "n": len(group)}
        rows.append({**about, **estimates, "over": numbers["over"]})
    columns = ["setting", "line", "strength", "kind", "n", "over"]
    return _frame(rows, [*columns, *(f"{p}{end}" for p in ("kl", "reward") for end in ("", "_low", "_high"))])


def frontier_points(found: Collected) -> pd.DataFrame:
    """KL and reward of each finished run, of the same kind as in `frontier_frame`."""
    rows = [
        {**_about(found, name, point), "run": point["run"], "kl": measure.kl.value, "reward": measure.reward.value}
        for name, group in _measured(found).items()
        for point, measure in group
    ]
    return _frame(rows, ["setting", "line", "strength", "run", "kl", "reward"])


def exact_frontiers(found: Collected) -> tuple[list[dict[str, list[float]]], list[str]]:
    """(frontiers with `kl` and `reward`: for each reference the longest one that its runs stored, notes)."""
    longest: dict[str, tuple[float, Any]] = {}
    for point in found.done:
        record = found.records[point["run"]]
        summary = record["summary"]
        if KL not in summary or not found.run(point).frontier.is_file():
            continue
        reference = repr((record.get("model"), summary.get("exact/reward_reference")))
        if summary[KL] >= longest.get(reference, (-1.0, None))[0]:
            longest[reference] = (summary[KL], point)
    curves, notes = [], []
    for _, point in longest.values():
        try:
            stored = read_record(found.run(point).frontier)
            curve = {name: [float(value) for value in stored[name]] for name in ("kl", "reward")}
        except (OSError, DamagedError, KeyError, TypeError, ValueError) as error:
            notes.append(f"{point['run']}: its frontier can't be read ({error})")
            continue
        if curve["kl"] and len(curve["kl"]) == len(curve["reward"]):
            curves.append(curve)
    return curves, notes


def start_reward(found: Collected) -> float | None:
    """The mean reward of the policies before training, of the same kind as in `frontier_frame`; None if not known."""
    measured = [one for group in _measured(found).values() for one in group]
    starts = [
        value for point, measure in measured if (value := _value(found, point, _start_metric(measure.kind))) is not None
    ]
    return float(np.mean(starts)) if measured and len(starts) == len(measured) else None


def reward_heading(kind: str) -> str:
    """The name of the reward of a kind of measure, for people."""
    return "exact expected reward" if kind == "exact" else kind if kind.startswith(_RATE) else f"mean {kind}"


def _start_metric(kind: str) -> str:
    if kind == "exact":
        return "exact/reward_reference"
    return _metric_of(kind, "reward").removesuffix("/mean") + "/reference"


def curves_frame(found: Collected, metrics: Sequence[str] = tuple(CURVES)) -> pd.DataFrame:
    """Training curves by setting: mean over seeds, with t intervals.

    Columns: setting, line, strength, metric, step, value, low, high, n. A curve of over MOST_POINTS logged values is
    averaged in bins of steps.
    """
    parts = []
    for name, points in settings_points(found).items():
        runs = [logged(rows_of(found.run(point).metrics), metrics) for point in points]
        for metric in metrics:
            curves = [pd.Series(run[metric]) for run in runs if metric in run]
            if not curves:
                continue
            table = _binned(pd.concat(curves, axis=1))
            about = {**_about(found, name, points[0]), "metric": metric}
            parts += [{**about, **numbers_in_range(metric, row)} for row in _mean_curve(table)]
    return _frame(parts, ["setting", "line", "strength", "metric", "step", "value", "low", "high", "n"])


def metrics_notes(found: Collected) -> Iterator[str]:
    """Sentences on finished runs whose training metrics are missing, damaged or cut off."""
    for point in found.done:
        run = found.run(point)
        yield from (f"{run.id}: {fault}" for fault in faults_of_metrics(run, found.records[run.id]))


def winrates_frame(found: Collected) -> pd.DataFrame:
    """Win-rates by setting, one row for each file of prompts, judge and baseline.

    Columns: setting, line, strength, file, judge, baseline, value, low, high, n, prompts, over. `n` is the number of
    seeds. `file` is empty for held-out prompts. Intervals are over seeds and prompts together, over prompts for a
    single seed, and over seeds for exact win-rates. Prompts without a valid verdict for every seed are left out. A
    number comes from the run's latest evaluation with the judge and the baseline. If there is none, it comes from the
    run's record.
    """
    rows: dict[Compared, list[dict[str, Any]]] = {}
    for name, points in settings_points(found).items():
        of_points = [(point, _latest_win_rates(found, point)) for point in points]
        for key in dict.fromkeys(key for _, rates in of_points for key in rates):
            having = [(point, rates[key]) for point, rates in of_points if key in rates]
            singles = [rate for _, rate in having]
            numbers = _pooled_win_rate(found, [point for point, _ in having], key) or {
                **_estimate([rate.value for rate in singles], singles), "prompts": min(rate.n for rate in singles)
            }  # fmt: skip
            about = {**_about(found, name, points[0]), **key._asdict()}
            rows.setdefault(key, []).append({**about, **numbers_in_range(f"eval/winrate/{key.judge}", numbers)})
    columns = ["setting", "line", "strength", *Compared._fields, "value", "low", "high", "n", "prompts", "over"]
    return _frame([row for key in sorted(rows, key=lambda key: key.file) for row in rows[key]], columns)


def displacement_frame(found: Collected) -> pd.DataFrame:
    """Held-out log-ratios of chosen and rejected answers, and the length of the policy's answers, by setting.

    Columns: setting, line, strength, and value, low, high of chosen, rejected and length.
    """
    metrics = {
        "chosen": ("eval/logratios/chosen",),
        "rejected": ("eval/logratios/rejected",),
        "length": ("eval/samples/mean_length", "eval/completions/mean_length"),
    }
    rows = []
    for name, points in settings_points(found).items():
        row: dict[str, Any] = _about(found, name, points[0])
        for part, names in metrics.items():
            values = [v for point in points if (v := _first_value(found, point, part, names)) is not None]
            numbers = _estimate(values)
            row |= {f"{part}{'' if end == 'value' else f'_{end}'}": numbers[end] for end in ("value", "low", "high")}
        if any(not math.isnan(row[part]) for part in metrics):
            rows.append(row)
    columns = ["setting", "line", "strength"]
    return _frame(rows, [*columns, *(f"{p}{end}" for p in metrics for end in ("", "_low", "_high"))])


def strength_metrics(found: Collected) -> list[str]:
    """The metrics that can be drawn against the strength: those of the table, KL from samples, and win-rates."""
    names = dict.fromkeys(
        name for point in found.done for name in found.records[point["run"]]["summary"] if _is_drawn(name)
    )
    order = {name: place for place, name in enumerate(COLUMNS)}
    return sorted(names, key=lambda name: (order.get(name, len(order)), name))


def heading(metric: str) -> str:
    """The name of a metric for people."""
    if metric in (named := columns_of([metric])):
        return named[metric][0]
    if (found := _WIN_RATE.fullmatch(metric)) and found["split"] == "exact":
        return f"exact win-rate by {found['judge']}" if found["judge"] else "exact win-rate"
    return CURVES.get(metric, metric)


def form(metric: str) -> str:
    """The format of a metric's numbers."""
    return columns_of([metric]).get(metric, ("", ".3f" if _WIN_RATE.fullmatch(metric) else ".4g"))[1]


def _is_drawn(name: str) -> bool:
    left_out = ("time/train_seconds", "start/loss", "exact/frontier_reward")
    return name not in left_out and (bool(columns_of([name])) or _WIN_RATE.fullmatch(name) is not None)


def _measured(found: Collected) -> dict[str, list[tuple[dict[str, Any], Measure]]]:
    """Setting -> (point, its KL and reward), for the kind of measure that most runs have."""
    all_of = {point["run"]: list(_measures(found, point)) for point in found.done}
    counts: dict[str, int] = {}
    for measures in all_of.values():
        for measure in measures:
            counts[measure.kind] = counts.get(measure.kind, 0) + 1
    if not counts:
        return {}
    kind = max(counts, key=lambda name: counts[name])
    groups: dict[str, list[tuple[dict[str, Any], Measure]]] = {}
    for name, points in settings_points(found).items():
        for point in points:
            for measure in all_of[point["run"]]:
                if measure.kind == kind:
                    groups.setdefault(name, []).append((point, measure))
                    break
    return groups


def _measures(found: Collected, point: Mapping[str, Any]) -> Iterator[Measure]:
    """All pairs of KL and reward that a run has, the most accurate first."""
    summary = found.records[point["run"]]["summary"]
    if math.isfinite(summary.get(KL, math.nan)) and math.isfinite(summary.get(REWARD, math.nan)):
        yield Measure("exact", _bare(summary[KL]), _bare(summary[REWARD]))
        return
    for name in summary:
        if (judge := re.fullmatch(r"eval/score/([^/]+)/mean", name)) and SAMPLED_KL in summary:
            reward = _with_error(found, point, name, name.removesuffix("mean") + "se")
            yield Measure(f"{_SCORE}{judge[1]}", _with_error(found, point, SAMPLED_KL, f"{SAMPLED_KL}/se"), reward)
    for _, evaluated in reversed(found.evaluated[point["run"]]):
        if asked_file(evaluated):
            continue
        kl = _estimate_of(_inner(evaluated, "kl", "sequence_k1"))
        for name, numbers in (_inner(evaluated, "answers", "policy") or {}).items():
            scored = _estimate_of(numbers) if str(name).startswith("score/") else None
            if kl is not None and scored is not None:
                yield Measure(f"{_SCORE}{str(name).removeprefix('score/')}", kl, scored)
    for name, value in summary.items():
        if (judge := re.fullmatch(r"eval/winrate/([^/]+)", name)) and SAMPLED_KL in summary:
            kl = _with_error(found, point, SAMPLED_KL, f"{SAMPLED_KL}/se")
            yield Measure(f"{_RATE}{judge[1]}", kl, _rate(value, summary, f"{name}/"))
    if "eval/objective/kl" in summary and "eval/objective/scores" in summary:
        yield Measure(
            "score of the objective", _bare(summary["eval/objective/kl"]), _bare(summary["eval/objective/scores"])
        )


class Compared(NamedTuple):
    """What a win-rate is about: answers to the prompts of a file (empty: held-out prompts), a judge and a baseline."""

    file: str
    judge: str
    baseline: str


def _latest_win_rates(found: Collected, point: Mapping[str, Any]) -> dict[Compared, Estimate]:
    """The latest win-rates of a run, with intervals over prompts.

    The record repeats the latest evaluation, without the name of its baseline, so it counts only if no evaluation has
    the judge.
    """
    rates: dict[Compared, Estimate] = {}
    for key, rate in _win_rates(found, point):
        if key.baseline or not any(key[:2] == other[:2] for other in rates):
            rates.setdefault(key, rate)
    return rates


def _win_rates(found: Collected, point: Mapping[str, Any]) -> Iterator[tuple[Compared, Estimate]]:
    """All win-rates of a run, those of the newest evaluations first, then those of the record."""
    for _, evaluated in reversed(found.evaluated[point["run"]]):
        for baseline, judges in _mapping(evaluated.get("compared")).items():
            for judge, numbers in _mapping(judges).items():
                rate = _mapping(_inner(numbers, "win_rate"))
                if (value := _finite(rate.get("value"))) is not None:
                    yield Compared(asked_file(evaluated), judge, baseline), _rate(value, rate, "")
    summary = found.records[point["run"]]["summary"]
    for name, value in summary.items():
        if (match := _WIN_RATE.fullmatch(name)) and math.isfinite(value):
            judge = match["judge"] or "gold"
            key = Compared(match["file"] or "", judge, "")
            if match["split"] == "exact":
                key = Compared("", f"{judge} (exact)", "reference")
            yield key, _rate(value, summary, f"{name}/")


def _rate(value: float, numbers: Mapping[str, Any], prefix: str) -> Estimate:
    low, high, n = (_finite(numbers.get(f"{prefix}{part}")) for part in ("ci_low", "ci_high", "n"))
    below, above = (math.nan if end is None else end for end in (low, high))
    return Estimate(value, math.nan, below, above, 0 if n is None else round(n))


def _pooled_win_rate(found: Collected, points: Sequence[Mapping[str, Any]], key: Compared) -> dict[str, Any] | None:
    """A win-rate of a setting over seeds and prompts together; None if it can't be told from stored answers."""
    runs = [_newest(found, point, key.file, lambda one: one.winrates.get(key[1:])) for point in points]
    return pooled(runs, f"winrate/{key.judge}")


def _pooled(found: Collected, points: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any] | None:
    """A metric of a setting over seeds and prompts together; None if it can't be told from stored answers."""
    file, name = _of_samples(metric)
    runs = [_newest(found, point, file, lambda one: one.values.get(name)) for point in points] if name else []
    return pooled(runs, name)


def _of_samples(metric: str) -> tuple[str, str]:
    """(file of prompts, name) of a metric that may come from sampled answers; ("", "") for other metrics."""
    split, _, name = metric.partition("/")
    if split == "questions":
        file, _, name = name.partition("/")
        return file, name
    return "", name if split == "eval" else ""


def _newest(
    found: Collected, point: Mapping[str, Any], file: str, values_of: Callable[[OfRun], Any]
) -> tuple[OfRun, Any] | None:
    """(newest evaluation on the prompts of a file that has some values, these values by prompt); None without one."""
    for asked, one in found.by_prompt.get(point["run"], []):
        if asked == file and (values := values_of(one)) is not None:
            return one, values
    return None


def pooled(runs: Sequence[tuple[OfRun, Any] | None], name: str) -> dict[str, Any] | None:
    """Mean and interval of [P] values of two seeds or more that answered the same prompts; None if there are none.

    Prompts without a valid verdict for one of these seeds are left out.

    name: of the metric, as in `OfRun`.
    """
    known = [run for run in runs if run is not None]
    if len(known) < 2 or len(known) < len(runs) or not all(one.same_prompts(known[0][0]) for one, _ in known):
        return None
    table = np.stack([values for _, values in known])
    table = table[:, np.isfinite(table).all(axis=0)]
    if not table.size:
        return None
    everything = known[0][0].all_prompts
    rows, rate = list(table), name.startswith("winrate/")
    mean = pooled_rate(rows, all_prompts=everything) if rate else Crossed(everything)(rows, 0.95)
    over = "seeds" if everything else "seeds and prompts"
    ends = {"value": mean.value, "low": mean.low, "high": mean.high}
    return {**ends, "n": len(table), "over": over, "prompts": table.shape[1]}


def _metric_of(kind: str, part: str) -> str:
    """The metric of the record that holds a part (kl or reward) of a measure of a kind; empty for other kinds."""
    if not kind.startswith((_SCORE, _RATE)):
        return ""
    if part == "kl":
        return SAMPLED_KL
    judge = kind.removeprefix(_SCORE).removeprefix(_RATE)
    return f"eval/score/{judge}/mean" if kind.startswith(_SCORE) else f"eval/winrate/{judge}"


def _first_value(found: Collected, point: Mapping[str, Any], part: str, names: Sequence[str]) -> float | None:
    for name in names:
        if (value := _value(found, point, name)) is not None:
            return value
    if part != "length":
        return None
    for _, evaluated in reversed(found.evaluated[point["run"]]):
        tokens = _estimate_of(_inner(evaluated, "answers", "policy", "tokens"))
        if tokens is not None:
            return tokens.value
    return None


def _binned(table: pd.DataFrame) -> pd.DataFrame:
    """At most MOST_POINTS rows: means over bins of neighbouring steps, each at the last step of its bin."""
    table = table.sort_index()
    if len(table) <= MOST_POINTS:
        return table
    size = math.ceil(len(table) / MOST_POINTS)
    bins = np.arange(len(table)) // size  # not a list, whose numbers pandas would take for names of columns
    means = table.groupby(bins).mean()
    means.index = pd.Index([table.index[min(len(table), (b + 1) * size) - 1] for b in means.index])
    return means


def _mean_curve(table: pd.DataFrame) -> Iterator[dict[str, float]]:
    """Mean and t interval of each row, over its columns, which are the seeds."""
    for step, values in zip(table.index, table.to_numpy(dtype=float), strict=True):
        known = values[~np.isnan(values)]
        n, mean = len(known), float(known.mean())
        half = _t(n) * float(known.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
        yield {"step": float(step), "value": mean, "low": mean - half, "high": mean + half, "n": n}


@cache
def _t(n: int) -> float:
    return t_quantile(0.95, n)


def _about(found: Collected, setting: str, point: Mapping[str, Any]) -> dict[str, Any]:
    strength = float(point[found.strength]) if found.strength else math.nan
    return {"setting": setting, "line": found.line(point), "strength": strength}


def _estimate(values: Sequence[float], over_prompts: Sequence[Estimate] = ()) -> dict[str, Any]:
    """Mean and interval of the values of a setting's runs.

    over_prompts: the interval over prompts of each run, if the metric has one. The runs share their prompts, so more
                  seeds do not make this part narrower. The square of the half-width is the sum of two squares: that of
                  its mean half-width, and that of the half-width of the t interval over seeds.
    """
    found = mean_interval(values)
    known = [one for one in over_prompts if math.isfinite(one.low) and math.isfinite(one.high)]
    seeds = found.half if found.n > 1 else 0.0
    if known and len(known) == len(values):
        below = math.hypot(seeds, sum(one.value - one.low for one in known) / len(known))
        above = math.hypot(seeds, sum(one.high - one.value for one in known) / len(known))
        over = "seeds and prompts" if found.n > 1 else "prompts"
        return {
            "value": found.value,
            "low": found.value - below,
            "high": found.value + above,
            "n": found.n,
            "over": over,
        }
    over = "seeds" if found.n > 1 else "nothing"
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n, "over": over}


def _over_prompts(found: Collected, point: Mapping[str, Any], metric: str) -> Estimate | None:
    """The interval over prompts of a metric of one run; None if its record holds none."""
    summary = found.records[point["run"]]["summary"]
    if f"{metric}/ci_low" in summary:
        low, high = summary[f"{metric}/ci_low"], summary.get(f"{metric}/ci_high", math.nan)
        return Estimate(summary[metric], math.nan, low, high, int(summary.get(f"{metric}/n", 0)))
    error = f"{metric.removesuffix('/mean')}/se"
    return _with_error(found, point, metric, error) if metric in summary and error in summary else None


def _value(found: Collected, point: Mapping[str, Any], metric: str) -> float | None:
    return _finite(found.records[point["run"]]["summary"].get(metric))


def _with_error(found: Collected, point: Mapping[str, Any], metric: str, error: str) -> Estimate:
    """A mean of one run's record with its interval over prompts.

    It is the t interval of the evaluation that the mean comes from. If that is gone, only the standard error is known,
    without the number of prompts, and the interval is the normal one.
    """
    summary = found.records[point["run"]]["summary"]
    value, spread = summary[metric], summary.get(error, math.nan)
    for stored in _stored(found, point, metric):
        if math.isclose(stored.value, value, rel_tol=1e-6, abs_tol=1e-12):
            return stored
    half = normal_quantile(0.95) * spread
    return Estimate(value, spread, value - half, value + half, 0)


def _stored(found: Collected, point: Mapping[str, Any], metric: str) -> Iterator[Estimate]:
    """A KL or a score of one run in the summaries of its evaluations, the newest first."""
    file, name = _of_samples(metric)
    kind, _, rest = name.partition("/")
    path = {"kl_ref": ("kl", rest), "score": ("answers", "policy", name.removesuffix("/mean"))}.get(kind)
    for _, evaluated in reversed(found.evaluated[point["run"]]):
        if path and asked_file(evaluated) == file and (stored := _estimate_of(_inner(evaluated, *path))) is not None:
            yield stored


def _bare(value: float) -> Estimate:
    return Estimate(value, math.nan, math.nan, math.nan, 1)


def _estimate_of(numbers: Any) -> Estimate | None:
    """An estimate of a stored summary; None if it has no finite value."""
    if not isinstance(numbers, dict) or (value := _finite(numbers.get("value"))) is None:
        return None
    ends = [_finite(numbers.get(end)) for end in ("low", "high")]
    low, high = (math.nan if end is None else end for end in ends)
    return Estimate(value, math.nan, low, high, 0)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _inner(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _finite(value: Any) -> float | None:
    """A finite number; None for anything else."""
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    return number if math.isfinite(number) else None


def _frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(columns))
