"""The answer of a sweep in one or two sentences, with its uncertainty. It says no more than the runs show.

A setting is called best only at a KL that others reach, and only if two or more seeds tell it from at least one other.
Everything else is answered with "nothing can be told" and the reason.
"""

from __future__ import annotations

import math

from alignlab.reports.seeds_table import Settings, conclusions
from alignlab.reports.series import SAMPLED_KL, heading
from alignlab.spelling import counted
from alignlab.statistics.comparison import GAP, KL, ComparedSettings, Group, SettingStatistics
from alignlab.statistics.intervals import NOTHING
from alignlab.statistics.kl_budget import SAME_KL, Budget
from alignlab.tracking.metrics import BETTER

UNKNOWN = "Nothing can be told about which setting is best"


def answers(found: Settings, metric: str = "") -> list[str]:
    """Sentences that answer the question of a sweep for one data set.

    metric: the metric that the sweep names; empty if it names none.
    """
    compared = found.compared
    with_results = [setting for setting in compared.settings if setting.seeds]
    if not with_results:
        return ["Nothing can be told: no run is done."]
    if len(compared.settings) == 1:
        return [f"There is one setting, so nothing is compared{_measured(with_results[0])}."]
    if len(with_results) == 1:
        return [f"{UNKNOWN}: only {with_results[0].name} has finished runs."]
    if compared.metric is None:
        return [f"{UNKNOWN}: {_without(_reason(found, metric), 'settings are not compared, since ')}."]
    if compared.budgets is not None:
        return _at_common_kls(found, metric)
    known = [group for group in compared.groups if _told(group)]
    sentences = [text for group in known if (text := _best(compared, group))]
    if sentences:
        return [*sentences, *_not_compared(compared, known)]
    return [f"{UNKNOWN}: {_why_nothing(compared)}."]


def _at_common_kls(found: Settings, metric: str) -> list[str]:
    """The answer about methods, at the largest KL that all of them reached."""
    budgets = found.compared.budgets
    assert budgets is not None
    if not budgets.budgets:
        reason = next((line for line in conclusions(found, metric) if line.startswith("no common KL")), "")
        return [f"Nothing can be told about which method is best: {reason or 'no KL was reached by all of them'}."]
    return [_at_budget(budgets.budgets[-1], found.compared)]


def _at_budget(budget: Budget, compared: ComparedSettings) -> str:
    assert compared.plane is not None
    where, what = f"At a KL of {budget.kl:.3g} nats", heading(compared.plane.reward)
    if budget.best is None:
        return f"{where}, no method is known to be better than the start (95 % intervals)."
    others = {name: c for name, c in budget.comparisons.items() if name != budget.best}
    value = budget.rewards[budget.best]
    if all(c.tied is None for c in others.values()):
        return (
            f"Nothing can be told about which method is best: at a KL of {budget.kl:.3g} nats, no method has two seeds "
            "in common with another."
        )
    worse = {name: c for name, c in others.items() if c.tied is False and c.difference is not None}
    tied = [name for name, c in others.items() if c.tied]
    if not worse:
        both = "; ".join(f"{name} ({budget.rewards[name].value:.3f})" for name in [budget.best, *tied][:4])
        return f"{where}, no method is known to be best. By {what} not told apart: {both} (95 % intervals)."
    nearest = min(worse, key=lambda name: abs(worse[name].difference.value))  # type: ignore[union-attr]
    text = f"{where}, {budget.best} has the highest {what}: {value.value:.3f} over {counted(value.n, 'seed')}"
    text += (
        f". The next method that is told from it is {nearest}, with {worse[nearest].difference.value:+.3f} against it"  # type: ignore[union-attr]
    )
    if tied:
        text += f". Not told from it: {_some(tied)}"
    return f"{text} (95 % intervals)."


def _told(group: Group) -> bool:
    """Whether a group has a best setting that is known to differ, or not to differ, from another one."""
    return group.best is not None and any(
        comparison.tied is not None for name, comparison in group.comparisons.items() if name != group.best
    )


def _best(compared: ComparedSettings, group: Group) -> str:
    """A sentence on the best setting of a group; empty if a KL is not known or differs, unless the user asked."""
    assert group.best is not None
    assert compared.metric is not None
    metric, by_name = compared.metric, {row.name: row for row in compared.settings}
    kls = {name: kl for name in group.names if (kl := _kl(by_name[name])) is not None}
    others = {name: c for name, c in group.comparisons.items() if name != group.best}
    apart = [name for name in group.names if name != group.best and _differ(kls.get(name), kls.get(group.best))]
    if apart and not compared.asked:
        return ""
    value = by_name[group.best].means[metric]
    where = f"At a KL of {min(kls.values()):.2f} to {max(kls.values()):.2f} nats, " if not apart else ""
    worse = {name: c for name, c in others.items() if c.tied is False and c.difference is not None}
    tied = [name for name, c in others.items() if c.tied]
    word = "lowest" if compared.better == "lower" else "highest"
    if not worse:
        both = "; ".join(f"{name} ({by_name[name].means[metric]:.3f})" for name in [group.best, *tied][:4])
        rest = f" and {len(tied) - 3} more" if len(tied) > 3 else ""
        return f"{where or 'Here '}no setting is known to be best. By {heading(metric)} not told apart: {both}{rest}."
    first = f"{where}{group.best} has the {word} {heading(metric)}: {value:.3f} over {counted(value.n, 'seed')}"
    if worse:
        nearest = min(worse, key=lambda name: abs(worse[name].difference.value))  # type: ignore[union-attr]
        difference = worse[nearest].difference
        first += f". The next setting that is told from it is {nearest}, with {difference:+.3f} against it"
    if tied:
        first += f". Not told from it: {_some(tied)}"
    if apart:
        first += ". Their KLs differ or were not measured, so this says nothing about equal KL"
    return f"{first[0].upper()}{first[1:]} (95 % intervals)."


def _why_nothing(compared: ComparedSettings) -> str:
    most = max((row.means.get(compared.metric or "", NOTHING).n for row in compared.settings), default=0)
    if most < 2:
        return "each setting has one seed, and a difference between single runs may be chance (seed=1,2,3 adds seeds)"
    if compared.metric == GAP and not compared.groups:
        kls = [kl for row in compared.settings if (kl := _kl(row)) is not None]
        where = f" (they reach {min(kls):.2f} to {max(kls):.2f} nats)" if kls else ""
        return f"no two settings have the same KL{where}, and more reward at more KL is not better"
    if any(group.still for group in compared.groups) and not any(group.best for group in compared.groups):
        return "no setting that moved is known to be better than the start"
    if group := next((group for group in compared.groups if _told(group)), None):
        return _at_no_common_kl(compared, group)
    if not any(group.best for group in compared.groups):
        return "no setting is known to be better than the start"
    return "no setting has two seeds in common with another"


def _at_no_common_kl(compared: ComparedSettings, group: Group) -> str:
    """Why the best setting of a group is not called the best of the sweep."""
    row = next(row for row in compared.settings if row.name == group.best)
    value = row.means[compared.metric or ""]
    pairs = compared.values[row.name].get("eval/pairs/n") if compared.metric == "eval/pairs/accuracy" else None
    on = f" and {counted(int(min(pairs.values())), 'pair')}" if pairs else ""
    word = "lowest" if compared.better == "lower" else "highest"
    kls = [_kl(row) for row in compared.settings]
    known = [kl for kl in kls if kl is not None]
    why = f"they reach {min(known):.2f} to {max(known):.2f} nats" if len(known) == len(kls) else "it was not measured"
    return (
        f"the settings are not known to have a KL in common ({why}), and one that moved further may only seem better. "
        f"By {heading(compared.metric or '')} alone, the {word} is that of {group.best}: {value.value:.3f} over "
        f"{counted(value.n, 'seed')}{on}"
    )


def _reason(found: Settings, metric: str) -> str:
    return next((line for line in conclusions(found, metric) if line.startswith("settings are not compared")), "")


def _not_compared(compared: ComparedSettings, known: list[Group]) -> list[str]:
    """A sentence on settings whose KL no other setting has."""
    inside = {name for group in known for name in group.names}
    outside = [row.name for row in compared.settings if row.name not in inside]
    return [f"Not compared, because no other setting has their KL: {_some(outside)}."] if outside else []


def _measured(setting: SettingStatistics) -> str:
    """Its main number in words, with the interval if there are several seeds."""
    metric = next((name for name in (GAP, *BETTER) if setting.means.get(name, NOTHING).n), None)
    if metric is None:
        return ""
    value = setting.means[metric]
    interval = f" [{value.low:.3f}, {value.high:.3f}]" if value.n > 1 else ", with no interval"
    return f"; its {heading(metric)} is {value.value:.3f}{interval} over {counted(value.n, 'seed')}"


def _kl(setting: SettingStatistics) -> float | None:
    """The mean KL of a setting: exact, or else from samples. None if it is not known."""
    for metric in (KL, SAMPLED_KL, "eval/objective/kl"):
        if (mean := setting.means.get(metric, NOTHING)).n:
            return mean.value
    return None


def _differ(one: float | None, other: float | None) -> bool:
    """Whether two KLs are not known, or differ by more than the factor within which they count as equal."""
    if one is None or other is None or not (math.isfinite(one) and math.isfinite(other)):
        return True
    low, high = sorted((abs(one), abs(other)))
    return high > SAME_KL * low


def _some(names: list[str], most: int = 4) -> str:
    rest = len(names) - most
    return "; ".join(names[:most]) + (f"; and {rest} more" if rest > 0 else "")


def _without(text: str, start: str) -> str:
    return text.removeprefix(start).removeprefix("settings are not compared: ") or "they have no metric in common"
