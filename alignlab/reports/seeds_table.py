"""Settings of a sweep (points that differ in their seed only): a table with intervals, and conclusions in sentences."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from alignlab.reports.means import in_range, mean_text
from alignlab.reports.tables import columns_of, table
from alignlab.spelling import counted
from alignlab.statistics.comparison import (
    DEFAULT_METRICS,
    GAP,
    KLS,
    LEAST_DISTANCE,
    TUNED,
    ComparedSettings,
    Group,
    Run,
    SettingStatistics,
    better_than_start,
    compare_settings,
    hardly_moved,
    label,
    seeds_agree,
    strengths_to_add,
)
from alignlab.statistics.intervals import NOTHING, Estimate
from alignlab.statistics.kl_budget import LEAST_KL, SAME_KL, Budget, same_kl
from alignlab.statistics.seeds import LEVEL, MOST_SEEDS, Comparison
from alignlab.statistics.seeds_and_prompts import over_seeds_and_prompts
from alignlab.tracking.metrics import BETTER

SEED = "seed"

# Means that differ by less look the same in a table, and count as tied.
_LEAST = 5e-4

# An interval that is shorter has no width but rounding.
LEAST_WIDTH = 1e-9

# With fewer seeds than this, the text says what intervals over seeds assume.
_FEW_SEEDS = 30

# With at least this many seeds, an interquartile mean leaves seeds out.
_QUARTILES = 4

_PERCENT = f"{LEVEL:.0%}".replace("%", " %")

_COMPARED = ("difference to the best", "chance that the best wins", "tied with it", "seeds to add")


def split_axes(axes: Sequence[str], zipped: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """Axes of settings, and axes of repetition: the seed and the axes that are zipped with it."""
    if SEED not in axes:
        return list(axes), []
    with_seed = {axis for group in zipped if SEED in group for axis in group} | {SEED}
    return [a for a in axes if a not in with_seed], [a for a in axes if a in with_seed]


@dataclass(frozen=True)
class Settings:
    """The settings of a sweep, and how they compare.

    points: setting -> seed -> point, finished or not, with its `status`.
    over:   what the intervals of means are over, for the first sentence below the table.
    prompts_count: whether intervals include the variation between prompts.
    """

    compared: ComparedSettings
    points: Mapping[str, Mapping[str, Any]]
    over: str = "over seeds"
    prompts_count: bool = False


def settings_of(
    frame: pd.DataFrame,
    axes: Sequence[str],
    repeated: Sequence[str],
    sweep: Mapping[str, Any],
    by_prompt: Mapping[str, Mapping[str, Any]] | None = None,
) -> Settings:
    """All settings of a sweep, compared with each other.

    frame:    one row per point (tables.sweep_frame).
    axes:     axes of settings.
    repeated: axes of repetition.
    sweep:    content of sweep.json; its `metric` and `better` select the metric.
    by_prompt: run -> metric -> [P] values by prompt of metrics of sampled answers. Their intervals are over seeds and
               prompts together, if a setting has several seeds.
    """
    metrics = [c for c in frame.columns if "/" in c and pd.api.types.is_numeric_dtype(frame[c])]
    points: dict[str, dict[str, pd.Series]] = {}
    runs = []
    for _, point in frame.iterrows():
        setting, seed = tuple(str(point[a]) for a in axes), ", ".join(str(point[axis]) for axis in repeated)
        done = point["status"] == "done"
        numbers: dict[str, Any] = {m: float(point[m]) for m in metrics if done and math.isfinite(point[m])}
        own = (by_prompt or {}).get(str(point["run"]), {})
        runs.append(Run(setting, seed, numbers | {m: own[m] for m in own if m in numbers}))
        points.setdefault(label(axes, setting), {})[seed] = point
    metric = sweep.get("metric") or ""
    better = sweep.get("better") or (BETTER.get(metric, "lower") if metric else "")
    compared = compare_settings(
        runs, list(axes), metric=metric, better=better, least=_LEAST, interval_of=over_seeds_and_prompts
    )
    return Settings(compared, points, prompts_count=bool(by_prompt))


def settings_markdown(found: Settings, means: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """A Markdown table with one row per setting: axes, seeds, metrics as mean ± half of the interval, comparison.

    If methods are compared at common KLs, a second table has their rewards there.

    means: metric -> setting -> its mean with its interval in words, in place of those that are compared.
    """
    compared = found.compared
    shown = _shown(compared)
    quartiles = [m for m in _compared_metrics(compared) if any(s.seeds >= _QUARTILES for s in _having(compared, m))]
    header = [*compared.axes, "seeds", *(_heading(m) for m in shown), *(f"IQM of {_heading(m)}" for m in quartiles)]
    header += _COMPARED if compared.comparisons else ()
    rows = []
    for row in compared.settings:
        cells = [*row.values, _seeds(found, row.name)]
        cells += [_shown_mean(row, m, (means or {}).get(m)) for m in shown]
        cells += [format(row.interquartile[m], _format(m)) if m in row.interquartile else "" for m in quartiles]
        rows.append([*cells, *(_compared(compared, row.name) if compared.comparisons else ())])
    text = table(header, rows)
    if compared.budgets is not None and compared.budgets.budgets:
        text += f"\n\n{_budgets_markdown(compared)}"
    return text


def _budgets_markdown(compared: ComparedSettings) -> str:
    """A table with the reward of each method at each common KL."""
    assert compared.budgets is not None
    assert compared.plane is not None
    reward = compared.plane.reward
    header = ["at KL (nats)", "method", "seeds", _heading(reward), "above the start"]
    header += [name for name in _COMPARED if name != _COMPARED[1]]
    most = max(row.seeds for row in compared.settings)  # of one seed, an estimate may count the prompts
    rows = []
    for budget in compared.budgets.budgets:
        for method, estimate in budget.rewards.items():
            gain = budget.gains.get(method, NOTHING)
            bounds, tied, more = _cells(method, budget.comparisons, _format(reward))
            cells = [
                f"{budget.kl:.3g}",
                method,
                str(min(estimate.n, most)),
                _mean(in_range(reward, estimate), _format(reward)),
            ]
            rows.append([*cells, _mean(gain, _format(reward)), bounds, tied, more])
    return table(header, rows)


def settings_frame(found: Settings, means: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None) -> pd.DataFrame:
    """The same table with all digits: mean, bounds, n and interquartile mean of every metric.

    means: metric -> setting -> value, low, high and n, in place of those that are compared.
    """
    compared = found.compared
    rows = []
    for row in compared.settings:
        cells: dict[str, Any] = dict(zip(compared.axes, row.values, strict=True))
        for metric in _shown(compared):
            own = in_range(metric, row.means.get(metric, NOTHING))
            numbers = (means or {}).get(metric, {}).get(row.name)
            numbers = numbers or {"value": own.value, "low": own.low, "high": own.high, "n": own.n}
            cells |= {metric: numbers["value"], f"{metric}/low": numbers["low"], f"{metric}/high": numbers["high"]}
            cells |= {f"{metric}/n": numbers["n"], f"{metric}/iqm": row.interquartile.get(metric)}
        if (comparison := compared.comparisons.get(row.name)) is not None:
            difference = comparison.difference
            cells |= {"difference": difference.value if difference else 0.0}
            cells |= {f"difference/{end}": getattr(difference, end, None) for end in ("low", "high", "n")}
            cells |= {"improvement": compared.improvement.get(row.name)}
            cells |= {"tied": comparison.tied, "more_seeds": comparison.more_seeds}
        rows.append(cells)
    return pd.DataFrame(rows)


def conclusions(found: Settings, asked: str) -> Iterator[str]:
    """Sentences on the table: missing points, the metric of comparison, the best settings, and what is not known.

    asked: the metric that the sweep names; empty if it names none.
    """
    compared = found.compared
    agree = any(
        seeds_agree(mean) and mean.half > LEAST_WIDTH for row in compared.settings for mean in row.means.values()
    )
    rows = " If all seeds of an accuracy agree, the interval is over its held-out rows." if agree else ""
    yield f"± is half of a {_PERCENT} t interval of the mean {found.over}.{rows}"
    for row in compared.settings:
        points = found.points[row.name]
        lost = {seed: p for seed, p in points.items() if p["status"] != "done"}
        if lost:
            seeds = ", ".join(f"{seed} ({point['status']})" for seed, point in lost.items())
            rest = "Its numbers are from the other seeds." if len(lost) < len(points) else "It has no numbers."
            yield f"Missing seeds of {row.name or 'this setting'}: {seeds}. {rest}"
    if len(compared.settings) < 2:
        return
    if compared.metric is None:
        yield from _why_not_compared(compared, asked)
        yield from _hardly_moved(compared)
    elif compared.budgets is not None:
        yield from _budget_conclusions(found)
    else:
        yield from _setting_conclusions(found)


def prompts_left_out(left_out: int, prompts: int) -> str:
    """A sentence on the prompts that comparisons leave out, of all prompts."""
    return (
        f"Comparisons leave out {left_out} of {counted(prompts, 'prompt')}, where a judge gave no valid verdict on "
        "some run's answer. Means of a setting leave out only those of its own runs."
    )


def _setting_conclusions(found: Settings) -> Iterator[str]:
    """Sentences on settings that are compared with each other, all of them or those with equal KL."""
    compared = found.compared
    assert compared.metric is not None
    where = f", but only with settings of equal KL (within a factor of {SAME_KL})" if compared.at_equal_kl else ""
    yield (
        f"Settings are compared by {_heading(compared.metric)} ({compared.better} is better){where}. "
        f"{_how_compared('setting')}"
    )
    yield from _settings_without_equal_kl(compared)
    yield from _prompts_not_counted(found)
    yield from _hardly_moved(compared)
    for group in compared.groups:
        yield from _group_conclusions(group, compared)
    if not compared.at_equal_kl and compared.metric in ("eval/pairs/accuracy", "eval/labels/auc"):
        yield from _kl_beside(compared)
    yield from _how_sure(compared, compared.comparisons)
    if compared.asked:
        yield from _weak_settings(compared)


def _how_compared(what: str) -> str:
    """Sentences on the intervals of differences. what: setting or method."""
    return (
        "Differences to the best are paired by seed. Their t intervals count all comparisons (Bonferroni). With "
        f"{_PERCENT} probability, the truly best {what} is among those that are tied with the best."
    )


def _budget_conclusions(found: Settings) -> Iterator[str]:
    """Sentences on methods at the KLs that all of them reached."""
    compared = found.compared
    assert compared.budgets is not None
    assert compared.plane is not None
    ranges = compared.budgets.ranges
    reached = "; ".join(f"{name} {low:.2g} to {high:.2g} nats" for name, (low, high) in ranges.items())
    if not compared.budgets.budgets:
        hardly = all(high < LEAST_KL for _, high in ranges.values())
        if len(ranges) < 2:
            yield f"Nothing is compared, because {f'only {next(iter(ranges))}' if ranges else 'no method'} has results."
            return
        why = f" above {LEAST_KL} nats, because they hardly moved from the start" if hardly else ""
        yield f"The methods have no common KL{why}. So none is called best. KLs of their settings: {reached}."
        yield from _strengths_to_add(compared)
        return
    yield (
        f"Methods are compared by {_heading(compared.plane.reward)} at KLs that all of them reached. Between the "
        f"settings of a method, values are interpolated linearly. {_how_compared('method')}"
    )
    yield f"KLs of the settings: {reached}."
    yield from _prompts_not_counted(found)
    for budget in compared.budgets.budgets:
        yield from _at_budget(budget)
    most = max(high for _, high in ranges.values())
    if compared.budgets.budgets[-1].kl < most / 4:
        highest = compared.budgets.budgets[-1].kl
        yield f"Above {highest:.2g} nats nothing is compared, because not all methods got there."
        yield from _strengths_to_add(compared)
    if TUNED in compared.axes:
        pooled = all(name in ranges for budget in compared.budgets.budgets for name in budget.rewards)
        yield (
            "The settings of all learning rates of a method form one curve, because no rate alone covers these KLs."
            if pooled
            else "Each learning rate is a variant of a method. The best variant was chosen by these same numbers, and "
            "the intervals count all variants."
        )
    yield from _how_sure(
        compared, {f"{b.kl} {name}": c for b in compared.budgets.budgets for name, c in b.comparisons.items()}
    )


def _prompts_not_counted(found: Settings) -> Iterator[str]:
    compared = found.compared
    if found.prompts_count:
        return
    if compared.at_equal_kl and compared.plane is not None and compared.plane.kl.startswith("eval/"):
        yield (
            "All runs answered the same prompts, and these intervals do not include the variation between prompts. To "
            "include it, type: alignlab evaluate run=<this sweep>"
        )


def _at_budget(budget: Budget) -> Iterator[str]:
    where = f"At a KL of {budget.kl:.3g} nats, "
    no_better = [name for name, gain in budget.gains.items() if gain.n > 1 and not gain.low > 0]
    if no_better:
        yield _sentence(where, _no_better(no_better))
    yield from (f"{where}{line}." for line in between_settings(budget))
    if budget.best is None:
        yield f"{where}no method is known to be better than the start, so none is called best."
    else:
        yield from _best(budget.best, budget.comparisons, where, no_better, ())


def _no_better(names: Collection[str]) -> str:
    these, they = ("this one is", "it is") if len(names) == 1 else ("these are", "they are")
    return f"{these} not known to be better than the start ({_PERCENT} interval), so {they} not called best: " + (
        f"{'; '.join(names)}."
    )


def _sentence(where: str, text: str) -> str:
    """The text with a capital letter, or after a phrase that says where it holds."""
    return f"{where}{text}" if where else f"{text[0].upper()}{text[1:]}"


def between_settings(budget: Budget) -> list[str]:
    """Sentences on methods whose reward at a KL is on a line between settings that are far apart."""
    return [
        f"{method} has no setting between {low:.3g} and {high:.3g} nats, so its value is on the line between these two "
        "and may be too low"
        for method, (low, high) in budget.sparse.items()
    ]


def _best(
    best: str, comparisons: Mapping[str, Comparison], where: str, not_best: Collection[str], unmoved: Collection[str]
) -> Iterator[str]:
    """Sentences on the best of some settings and on those that are tied with it.

    not_best: settings that can't be called best.
    unmoved:  those of them that hardly moved from the start.
    """
    unknown = [name for name, c in comparisons.items() if c.tied is None]
    if len(unknown) == len(comparisons) - 1:
        text = "no setting has two seeds in common with another, so nothing is known about which is best."
        yield _sentence(where, text)
        return
    tied = [name for name, c in comparisons.items() if c.tied and name not in (best, *not_best)]
    beside = [name for name, c in comparisons.items() if c.tied and name in not_best]
    known = " of those that can be compared" if unknown else ""
    if any(c.difference and abs(c.difference.value) < _LEAST for c in comparisons.values()):
        yield f"Means that differ by less than {_LEAST} count as tied, however many seeds there are."
    named = _sentence(where, f"the best{known} is {best}")
    if tied:
        yield f"{named}, tied with {'; '.join(tied)}. With {_PERCENT} probability, the truly best is one of these."
    else:
        other = "No other that is better than the start" if beside else "No other"
        if any(name in unmoved for name in beside):
            other = "No other that moved and is better than the start"
        yield f"{named}. {other} is tied with it."
    if unknown:
        text = f"not compared, because they have fewer than two seeds in common with the best: {'; '.join(unknown)}."
        yield _sentence(where, text)


def _how_sure(compared: ComparedSettings, comparisons: Mapping[str, Comparison]) -> Iterator[str]:
    """What the statements on ties assume, and on how many seeds they rest."""
    if any(c.tied and c.more_seeds for c in comparisons.values()):
        yield (
            "Seeds to add: so many more seeds would tell the two apart with 80 % probability, if difference and spread "
            f"stay as they are. A dash means more than {MOST_SEEDS:,} seeds, or that more held-out pairs are needed."
        )
    fewest = min((c.difference.n for c in comparisons.values() if c.difference and c.difference.n > 1), default=0)
    if max(row.seeds for row in compared.settings) < 2:  # the comparisons are over prompts
        yield "What is said about ties holds for these runs. With one seed, nothing is known about other seeds."
    elif 0 < fewest < _FEW_SEEDS:
        yield (
            f"Ties are judged from {counted(fewest, 'seed')}, on the assumption that differences are normally "
            "distributed over seeds. If one seed in five is far off, a 95 % interval from 3 seeds contains the true "
            "value in only half of the cases (docs/evaluation.md)."
        )


def _kl_beside(compared: ComparedSettings) -> Iterator[str]:
    """The KLs of the best settings, if settings are compared by a metric that ignores the KL."""
    kl = next((m for m in KLS if all(values.get(m) for values in compared.values.values() if values)), None)
    if kl is None:
        yield (
            "The KL to the reference is not known for all settings, so this does not say which is best at equal KL. To "
            "measure it, type: alignlab evaluate run=<this sweep>"
        )
        return
    kls = [_mean_of(values[kl]) for values in compared.values.values() if values.get(kl)]
    if same_kl(min(kls), max(kls)):
        return
    best = [group.best for group in compared.groups if group.best]
    names = best + [n for group in compared.groups for n, c in group.comparisons.items() if c.tied and n not in best]
    if names:
        shown = "; ".join(f"{n} {_mean_of(compared.values[n][kl]):.2g} nats" for n in names)
        yield f"The settings have different KLs, so this does not say which is best at equal KL: {shown}."


def _why_not_compared(compared: ComparedSettings, asked: str) -> Iterator[str]:
    why = reason_without_metric(compared, asked)
    if not why:
        return
    yield f"Settings are not compared, because {why}."
    if not asked:
        yield "To rank them by another metric, type: sweep.metric=<name> sweep.better=lower|higher"


def reason_without_metric(compared: ComparedSettings, asked: str) -> str:
    """Why settings with results are compared by no metric; empty if none has results. asked: as in `conclusions`."""
    if asked:
        return f"no finished run has {asked}"
    with_results = {name: values for name, values in compared.values.items() if any(values.values())}
    if not with_results:
        return ""
    lacking = []
    for metric in DEFAULT_METRICS[:-1]:
        without = [name for name, values in with_results.items() if not values.get(metric)]
        if len(without) < len(with_results):
            lacking.append(f"{_heading(metric)} is missing for {'; '.join(without)}")
    rest = ". ".join(lacking) or "losses of different objectives can't be compared"
    return f"no metric is known and comparable for all of them: {rest}"


def _kls(compared: ComparedSettings) -> dict[str, float]:
    """Setting -> mean KL (nats)."""
    if compared.plane is None:
        return {}
    kl = compared.plane.kl
    return {name: _mean_of(of[kl]) for name, of in compared.values.items() if of.get(kl)}


def between(kls: Sequence[float]) -> str:
    """The smallest and the largest of some KLs, as text; one number if they look the same."""
    low, high = f"{min(kls):.2f}", f"{max(kls):.2f}"
    return f"{low} nats" if low == high else f"{low} to {high} nats"


def _mean_of(by_seed: Mapping[str, Any]) -> float:
    return float(np.mean(list(by_seed.values())))


def _settings_without_equal_kl(compared: ComparedSettings) -> Iterator[str]:
    """Sentences on settings whose KL no other setting has, and on strengths that would make them comparable."""
    if not compared.at_equal_kl:
        return
    kl = _kls(compared)
    alone = [name for name in kl if not any(name in group.names for group in compared.groups)]
    if not alone:
        return
    where = "; ".join(f"{name} ({kl[name]:.2f} nats)" for name in alone)
    if len(alone) == len(kl):
        yield f"No two settings have the same KL, so none is called best: {where}."
    else:
        yield f"Not compared, because no other setting has the same KL: {where}."
    yield from _strengths_to_add(compared)


def _strengths_to_add(compared: ComparedSettings) -> Iterator[str]:
    kl = _kls(compared)
    named = {row.values: kl[row.name] for row in compared.settings if row.name in kl}
    if more := strengths_to_add(compared.axes, named):
        yield f"{more[0].upper()}{more[1:]}."


def _group_conclusions(group: Group, compared: ComparedSettings) -> Iterator[str]:
    """Sentences on the best setting of a group, and on those that are tied with it."""
    if len(compared.groups) == 1 and len(group.names) == len(compared.settings):
        where = ""
    else:
        kl = [value for name, value in _kls(compared).items() if name in group.names]
        where = f"At a KL of {between(kl)}, "
    metric = compared.metric or ""
    if group.no_better and not compared.asked:
        yield _sentence(where, _no_better(group.no_better))
    if group.best is None:
        if any(compared.values[name].get(metric) for name in group.names):
            which = "no setting that moved" if group.unmoved else "no setting"
            yield _sentence(where, f"{which} is known to be better than the start, so none is called best.")
        return
    not_best = [] if compared.asked else [*group.no_better, *group.unmoved]
    yield from _best(group.best, group.comparisons, where, not_best, group.unmoved)


def _hardly_moved(compared: ComparedSettings) -> Iterator[str]:
    """A sentence on settings that hardly moved from the start. It says whether this keeps them from being best."""
    little = hardly_moved(compared.values)
    if not little:
        return
    everyone = len(little) == sum(any(values.values()) for values in compared.values.values())
    limit = f"less than {LEAST_DISTANCE} nats per pair" if everyone else "less than a quarter of the largest distance"
    so = ", so not called best" if any(name in group.unmoved for group in compared.groups for name in little) else ""
    names = "; ".join(f"{name} ({how_far:.2g} nats)" for name, how_far in little.items())
    yield f"Hardly moved from the start ({limit}){so}: {names}."


def _weak_settings(compared: ComparedSettings) -> Iterator[str]:
    """Sentences on settings that are not better than the start, for a metric that the user chose."""
    values = compared.values
    for metric in (GAP, "eval/pairs/accuracy"):
        if no_better := [name for name in values if better_than_start(values[name], metric) is False]:
            by = "exact reward" if metric == GAP else _heading(metric)
            yield f"Not known to be better than the start by {by} ({_PERCENT} interval): {'; '.join(no_better)}."


def _shown(compared: ComparedSettings) -> list[str]:
    """The metrics of the table: those with a column of their own, and the one that settings are compared by."""
    names = {metric for values in compared.values.values() for metric, of in values.items() if of}
    return list(dict.fromkeys([*columns_of(names), *_compared_metrics(compared)]))


def _compared_metrics(compared: ComparedSettings) -> list[str]:
    return [compared.metric] if compared.metric else []


def _having(compared: ComparedSettings, metric: str) -> list[Any]:
    return [row for row in compared.settings if metric in row.means]


def _heading(metric: str) -> str:
    return columns_of([metric]).get(metric, (metric, ""))[0]


def _format(metric: str) -> str:
    return columns_of([metric]).get(metric, ("", ".4g"))[1]


def _seeds(found: Settings, name: str) -> str:
    """Number of seeds behind the numbers of a setting's row."""
    points, metric = found.points[name], found.compared.metric
    finished = sum(p["status"] == "done" for p in points.values())
    done = len(found.compared.values.get(name, {}).get(metric, {})) if metric else finished
    return str(done) if done == len(points) else f"{done} of {len(points)}"


def _shown_mean(row: SettingStatistics, metric: str, means: Mapping[str, str] | None) -> str:
    if means is not None:
        return means.get(row.name, "")
    return _mean(in_range(metric, row.means.get(metric, NOTHING)), _format(metric))


def _mean(interval: Estimate, form: str) -> str:
    return mean_text(interval.value, interval.low, interval.high, form) if interval.n else ""


def _compared(compared: ComparedSettings, name: str) -> list[str]:
    """Cells that compare a setting with the best of its group; empty strings if it is not compared."""
    for group in compared.groups:
        if name in group.comparisons:
            bounds, tied, more = _cells(name, group.comparisons, _format(compared.metric or ""))
            chance = compared.improvement.get(name, math.nan)
            return [bounds, "" if math.isnan(chance) else f"{chance:.2f}", tied, more]
    return ["", "", "", ""]


def _cells(name: str, comparisons: Mapping[str, Comparison], form: str) -> tuple[str, str, str]:
    """(difference to the best, whether it is tied with it, seeds to add) of one of the compared settings."""
    comparison = comparisons.get(name)
    if comparison is None:
        return "", "", ""
    if comparison.difference is None:  # the best; not known to be the best if no other can be compared with it
        alone = all(other.tied is None for key, other in comparisons.items() if key != name)
        return "unknown" if alone else "best", "", ""
    interval = comparison.difference
    if comparison.tied is None:
        return "unknown" if not interval.n else f"{interval.value:+{form}}", "unknown", "unknown"
    bounds = f"{interval.value:+{form}} [{interval.low:+{form}}, {interval.high:+{form}}]"
    more = str(comparison.more_seeds) if comparison.more_seeds is not None else "-"
    return bounds, "yes" if comparison.tied else "no", more if comparison.tied else ""
