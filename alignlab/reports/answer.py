"""The answer of a sweep in a few sentences, with its uncertainty. It says no more than the runs show.

A setting or method is called lowest or highest only at a KL that others reach too, and only if the difference to at
least one other is known from two seeds or more. Otherwise the answer is "nothing can be told", with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from alignlab.reports.collect import Collected
from alignlab.reports.fairness import cautions
from alignlab.reports.means import in_range
from alignlab.reports.seeds_table import LEAST_WIDTH, Settings, between, between_settings, reason_without_metric
from alignlab.reports.series import heading
from alignlab.spelling import counted
from alignlab.statistics.comparison import (
    GAP,
    KLS,
    ComparedSettings,
    Group,
    Values,
    better_than_start,
    hardly_moved,
    seeds_agree,
)
from alignlab.statistics.intervals import Estimate, normal_quantile
from alignlab.statistics.kl_budget import LEAST_KL, SAME_KL, Budget, same_kl
from alignlab.statistics.seeds import LEVEL, Comparison
from alignlab.tracking.metrics import BETTER

NOTHING = "Nothing can be told about which is best"
_START_UNKNOWN = " It is not known whether it is better than the start."
_NOTHING_TOLD = ("Nothing can be told", "There is one setting")
_MOST = 4  # names in a sentence


def answers_of(found: Collected) -> list[tuple[str, list[str]]]:
    """(name of a data set, sentences that answer the question of a sweep for it), for each data set of a sweep.

    Where something is told, sentences follow on what else may explain it: runs that are not done, seeds that do not
    vary, and runs that differ in their budget, start or held-out pairs.
    """
    metric, told = str(found.about.get("metric") or ""), []
    for name, settings in found.settings:
        sentences = answers(settings, metric)
        if not sentences[0].startswith(_NOTHING_TOLD):
            runs = [point["run"] for points in settings.points.values() for point in points.values()]
            sentences += [*_not_varied(settings.compared), *_not_done(settings)]
            sentences += cautions([found.records[run] for run in runs])
        told.append((name, sentences))
    return told


def _not_varied(compared: ComparedSettings) -> Iterator[str]:
    """A sentence on settings whose seeds have the same value of what is compared."""
    metric = compared.metric or ""
    same = [row.name for row in compared.settings if metric in row.means and _no_width(row.means[metric])]
    if same:
        yield (
            "All seeds of these have the same value, as if they were one run, so their intervals have no width: "
            f"{_some(same)}."
        )


def _no_width(mean: Estimate) -> bool:
    return seeds_agree(mean) and mean.half < LEAST_WIDTH


def _not_done(settings: Settings) -> Iterator[str]:
    """A sentence on settings with runs that are not done."""
    lost = {
        name: f"{name} ({sum(point['status'] != 'done' for point in points.values())} of {len(points)})"
        for name, points in settings.points.items()
    }
    shown = [text for name, text in lost.items() if any(p["status"] != "done" for p in settings.points[name].values())]
    if shown:
        yield f"Runs that are not done do not count, which may favour their settings: {_some(shown)}."


def answers(found: Settings, metric: str = "") -> list[str]:
    """Sentences that answer the question of a sweep for one data set.

    metric: the metric that the sweep names; empty if it names none.
    """
    compared = found.compared
    with_results = [row for row in compared.settings if any(compared.values[row.name].values())]
    if not with_results:
        return ["Nothing can be told: no run is done."]
    if len(compared.settings) == 1:
        return [f"There is one setting, so nothing is compared{_measured(with_results[0].means)}."]
    if len(with_results) == 1:
        return [f"{NOTHING}: only {with_results[0].name} has results."]
    if compared.metric is None:
        return [f"{NOTHING}: {reason_without_metric(compared, metric)}."]
    most = max(row.means[compared.metric].n for row in with_results if compared.metric in row.means)
    if most < 2:
        one = f"{_one_seed(compared)}, and a difference between single runs may be chance"
        return [f"{NOTHING}: {one}. To add seeds, train the sweep again with seed=1,2,3."]
    if compared.budgets is not None:
        return _at_budgets(compared)
    return _of_groups(compared)


def _one_seed(compared: ComparedSettings) -> str:
    """That each setting has one seed, or one seed with the metric that settings are compared by."""
    if max(row.seeds for row in compared.settings) < 2:
        return "each setting has one seed"
    return f"only one seed of each setting has {heading(compared.metric or '')}"


def _at_budgets(compared: ComparedSettings) -> list[str]:
    """Sentences on methods at the KLs that all of them reached."""
    assert compared.budgets is not None
    assert compared.plane is not None
    budgets = compared.budgets.budgets
    told = [text for budget in budgets if (text := _at_budget(budget, compared.plane.reward))]
    if told:
        return told
    if any(budget.best for budget in budgets):
        return [f"{NOTHING}: no method has two seeds in common with another."]
    if budgets:
        return [f"{NOTHING}: no method is known to be better than the start at a KL that all of them reached."]
    ranges = compared.budgets.ranges
    if len(ranges) < 2:
        return [f"{NOTHING}: only {'; '.join(ranges)} has results."]
    if min(high for _, high in ranges.values()) < LEAST_KL:
        still = [name for name, (_, high) in ranges.items() if high < LEAST_KL]
        return [
            f"{NOTHING}: KLs below {LEAST_KL} nats are not compared, and these methods went no further: {_some(still)}."
        ]
    reached = "; ".join(f"{name} {low:.2g} to {high:.2g} nats" for name, (low, high) in ranges.items())
    return [f"{NOTHING}: the methods have no KL in common ({reached}). More reward at more KL is not better."]


def _at_budget(budget: Budget, reward: str) -> str:
    """A sentence on the best method at a KL; empty if nothing is known there."""
    if budget.best is None or not _is_compared(budget.best, budget.comparisons):
        return ""
    where = f"At a KL of {budget.kl:.3g} nats, "
    means = {name: in_range(reward, mean) for name, mean in budget.rewards.items()}
    text = _sentence(where, budget.best, heading(reward), "highest", "method", means, budget.comparisons)
    unknown = "" if budget.best in budget.gains else _START_UNKNOWN
    return "".join([text, unknown, *(f" {one[0].upper()}{one[1:]}." for one in between_settings(budget))])


def _of_groups(compared: ComparedSettings) -> list[str]:
    """Sentences on settings that are compared with each other, all of them or those with equal KL."""
    groups = [g for g in compared.groups if g.best is not None and _is_compared(g.best, g.comparisons)]
    sentences = [text for group in groups if (text := _of_group(compared, group))]
    if not sentences:
        return [f"{NOTHING}: {_why_nothing(compared, groups)}."]
    return [*sentences, *_not_told(compared, groups)]


def _not_told(compared: ComparedSettings, told: Sequence[Group]) -> list[str]:
    """Sentences on the settings that are in no group with an answer, and why."""
    rows = [row.name for row in compared.settings if any(compared.values[row.name].values())]
    grouped = {name: group for group in compared.groups for name in group.names}
    alone = [name for name in rows if name not in grouped]
    open_groups = [group for group in compared.groups if group not in told]
    unstarted = [name for group in open_groups if group.best is None for name in group.names if name in rows]
    unpaired = [name for group in open_groups if group.best is not None for name in group.names if name in rows]
    empty = [row.name for row in compared.settings if row.name not in rows]
    reasons = (
        ("Not compared, because no other setting has their KL", alone),
        ("None of these is known to be better than the start", unstarted),
        ("Not compared, because they have no two seeds in common", unpaired),
        ("Without results", empty),
    )
    return [f"{why}: {_some(names)}." for why, names in reasons if names]


def _of_group(compared: ComparedSettings, group: Group) -> str:
    """A sentence on the best setting of a group.

    Empty if a KL is not known or differs, unless the user chose the metric.
    """
    assert group.best is not None
    assert compared.metric is not None
    kls = _kls(compared, group.names)
    apart = any(_differ(kls[name], kls[group.best]) for name in group.names)
    if apart and not compared.asked:
        return ""
    where = "" if apart else _at_kl([kl for kl in kls.values() if kl is not None])
    word = "lowest" if compared.better == "lower" else "highest"
    metric = compared.metric
    means = {row.name: in_range(metric, row.means[metric]) for row in compared.settings if metric in row.means}
    little = hardly_moved({name: compared.values[name] for name in group.names})
    still = " It hardly moved from the start." if compared.asked and group.best in little else ""
    text = _sentence(where, group.best, heading(compared.metric), word, "setting", means, group.comparisons)
    if not compared.asked and better_than_start(compared.values[group.best], compared.metric, compared.plane) is None:
        still = _START_UNKNOWN
    rest = " The KLs differ or were not measured, so this is not a comparison at equal KL." if apart else ""
    return f"{text}{still}{rest}"


def _at_kl(kls: Sequence[Estimate]) -> str:
    """The KLs of settings that are compared, and how uncertain they are if that is more than they may differ."""
    values, halves = [kl.value for kl in kls], [kl.half for kl in kls if kl.n > 1]
    wide = any(kl.n > 1 and kl.half > (SAME_KL - 1) * kl.value for kl in kls)
    unsure = f" (± {max(halves):.2f} or less over seeds)" if wide else ""
    return f"At a KL of {between(values)}{unsure}, "


def _sentence(
    where: str,
    best: str,
    metric: str,
    word: str,
    what: str,
    means: Mapping[str, Estimate],
    comparisons: Mapping[str, Comparison],
) -> str:
    """Sentences on the best of some settings or methods. word: lowest or highest. what: setting or method."""
    others = {name: c for name, c in comparisons.items() if name != best}
    sign = -1 if word == "lowest" else 1
    ahead = [name for name in others if name in means and sign * (means[name].value - means[best].value) > 0]
    unknown = [name for name, c in others.items() if c.tied is None and name in means]
    worse = {name: c.difference for name, c in others.items() if c.tied is False and c.difference is not None}
    tied = [name for name, c in others.items() if c.tied and name not in ahead]
    if not worse:
        tied = [name for name, c in others.items() if c.tied]
        shown = _some(f"{name} ({means[name]:.3f})" for name in [best, *tied])
        text = f"{where}no {what} is known to be best. These are tied by {metric}: {shown}."
    else:
        has = f"has the best {metric} of those that can be called best" if ahead else f"has the {word} {metric}"
        text = f"{where}{best} {has}: {means[best]:.3f} over {counted(means[best].n, 'seed')}."
        behind = {name: difference for name, difference in worse.items() if name not in ahead}
        if behind:
            nearest = min(behind, key=lambda name: abs(behind[name].value))
            side = "higher" if word == "lowest" else "lower"
            text += f" The closest {what} that is known to be {side} is {nearest}: a difference of "
            text += f"{behind[nearest]:+.3f}."
        text += f" Tied with it (not known to differ): {_some(tied)}." if tied else ""
        if excluded := [f"{name} ({means[name].value:.3f})" for name in ahead if name not in unknown]:
            why = "fewer seeds, hardly moved, or not known to be better than the start"
            text += f" Better, but not called best ({why}): {_some(excluded)}."
    if unknown:
        shown = _some(f"{name} ({means[name].value:.3f})" for name in unknown)
        text += f" Not compared with it, because they share fewer than two seeds: {shown}."
    return f"{text[0].upper()}{text[1:]}"


def _why_nothing(compared: ComparedSettings, groups: Sequence[Group]) -> str:
    with_results = [row.name for row in compared.settings if any(compared.values[row.name].values())]
    kls = list(_kls(compared, with_results).values())
    known = [kl.value for kl in kls if kl is not None]
    if compared.at_equal_kl and not compared.groups:
        where = f" (they reach {between(known)})" if known else ""
        return f"no two settings have the same KL{where}. More reward at more KL is not better"
    if groups:
        return _at_no_common_kl(compared, groups[0], known if len(known) == len(kls) else [])
    if any(group.best for group in compared.groups):
        return "no setting has two seeds in common with another"
    moved = " that moved" if any(group.unmoved for group in compared.groups) else ""
    by = "exact reward" if compared.metric == GAP else heading(compared.metric or "")
    return f"no setting{moved} is known to be better than the start ({by})"


def _at_no_common_kl(compared: ComparedSettings, group: Group, kls: Sequence[float]) -> str:
    """Why the best setting of a group is not called the best of the sweep. kls: empty if not all are known."""
    assert group.best is not None
    metric = compared.metric or ""
    value = in_range(metric, next(row.means[metric] for row in compared.settings if row.name == group.best))
    pairs = compared.values[group.best].get("eval/pairs/n", {}) if metric == "eval/pairs/accuracy" else {}
    on = f" and {counted(int(min(map(float, pairs.values()))), 'pair')}" if pairs else ""
    sign, word = (-1, "lowest") if compared.better == "lower" else (1, "highest")
    means = [row.means[metric].value for row in compared.settings if metric in row.means]
    which = (
        f"the {word}" if sign * value.value >= max(sign * mean for mean in means) else "the best that can be called so"
    )
    why = f"they reach {between(kls)}" if kls else _why_no_kl(compared)
    return (
        f"the settings are not known to have a KL in common ({why}). One that moved further may only seem better. "
        f"By {heading(metric)} alone, {which} is that of {group.best}: {_with_interval(value)} over "
        f"{counted(value.n, 'seed')}{on}"
    )


def _why_no_kl(compared: ComparedSettings) -> str:
    """Why the KLs of some settings are not known."""
    with_results = [values for values in compared.values.values() if any(values.values())]
    measured = any(all(values.get(kl) for values in with_results) for kl in KLS)
    return "some are not known to be above 0" if measured else "it was not measured"


def _is_compared(best: str, comparisons: Mapping[str, Comparison]) -> bool:
    """Whether there are enough seeds to compare the best with at least one other."""
    return any(comparison.tied is not None for name, comparison in comparisons.items() if name != best)


def _measured(means: Mapping[str, Estimate]) -> str:
    """The main number of a setting in words, with its interval if there are several seeds."""
    metric = next((name for name in BETTER if name in means), None)
    if metric is None:
        return ""
    value = in_range(metric, means[metric])
    interval = f" [{value.low:.3f}, {value.high:.3f}]" if value.n > 1 else ", with no interval"
    return f"; its {heading(metric)} is {value.value:.3f}{interval} over {counted(value.n, 'seed')}"


def _with_interval(value: Estimate) -> str:
    """A mean as text. The format of an estimate writes its interval too, which one seed does not have."""
    return f"{value:.3f}" if value.n > 1 else f"{value.value:.3f}"


def _kls(compared: ComparedSettings, settings: Sequence[str]) -> dict[str, Estimate | None]:
    """Setting -> mean KL, by the most exact one that all of them have. None where a KL is not known to be above 0.

    All are None if there is no such KL.
    """
    metric = next((name for name in KLS if all(compared.values[one].get(name) for one in settings)), None)
    if metric is None:
        return dict.fromkeys(settings)
    means = {row.name: row.means[metric] for row in compared.settings if row.name in settings}
    return {one: means[one] if _is_positive(compared.values[one], metric) else None for one in settings}


def _is_positive(values: Values, metric: str) -> bool:
    """Whether the mean KL of some runs is above 0 by more than the error of their samples, if that is known.

    Seeds share their prompts, so more seeds do not make the error smaller.
    """
    errors = [float(np.mean(error)) for error in values.get(f"{metric}/se", {}).values()]
    mean = np.mean([np.mean(value) for value in values[metric].values()])
    return not errors or bool(mean > normal_quantile(LEVEL) * np.mean(errors))


def _differ(one: Estimate | None, other: Estimate | None) -> bool:
    """Whether two KLs are not known, or do not count as equal."""
    return one is None or other is None or not same_kl(one.value, other.value)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    rest = len(listed) - _MOST
    return "; ".join(listed[:_MOST]) + (f"; and {rest} more" if rest > 0 else "")
