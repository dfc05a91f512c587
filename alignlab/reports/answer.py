"""The answer of a sweep in one or two sentences, with its uncertainty. It says no more than the runs show.

A setting is called best only at a KL that others reach, and only if two or more seeds tell it from at least one other.
Everything else is answered with "nothing can be told" and the reason.
"""

from __future__ import annotations

import math

from alignlab.reports.comparison import GAP, KL, SAME_KL, Group
from alignlab.reports.seeds_table import Setting, Settings, conclusions
from alignlab.reports.series import SAMPLED_KL, heading
from alignlab.spelling import counted
from alignlab.statistics.intervals import mean_interval
from alignlab.tracking.metrics import BETTER

NOTHING = "Nothing can be told about which setting is best"


def answers(found: Settings, metric: str = "") -> list[str]:
    """Sentences that answer the question of a sweep for one data set.

    metric: the metric that the sweep names; empty if it names none.
    """
    with_results = [row for row in found.rows if any(p["status"] == "done" for p in row.points.values())]
    if not with_results:
        return ["Nothing can be told: no run is done."]
    if len(found.rows) == 1:
        return [f"There is one setting, so nothing is compared{_measured(found, with_results[0])}."]
    if len(with_results) == 1:
        return [f"{NOTHING}: only {found.name(with_results[0])} has finished runs."]
    if found.metric is None:
        return [f"{NOTHING}: {_without(_reason(found, metric), 'settings are not compared, since ')}."]
    known = [group for group in found.groups if _told(group)]
    sentences = [text for group in known if (text := _best(found, group))]
    if sentences:
        return [*sentences, *_not_compared(found, known)]
    return [f"{NOTHING}: {_why_nothing(found, metric)}."]


def _told(group: Group) -> bool:
    """Whether a group has a best setting that is known to differ, or not to differ, from another one."""
    return group.best is not None and any(
        comparison.tied is not None for name, comparison in group.comparisons.items() if name != group.best
    )


def _best(found: Settings, group: Group) -> str:
    """A sentence on the best setting of a group; empty if a KL is not known or differs, unless the user asked."""
    assert group.best is not None
    assert found.metric is not None
    metric, by_name = found.metric, {found.name(row): row for row in found.rows}
    kls = {name: kl for name in group.names if (kl := _kl(by_name[name])) is not None}
    others = {name: c for name, c in group.comparisons.items() if name != group.best}
    apart = [name for name in group.names if name != group.best and _differ(kls.get(name), kls.get(group.best))]
    if apart and not found.asked:
        return ""
    value = by_name[group.best].metrics[metric]
    where = f"At a KL of {min(kls.values()):.2f} to {max(kls.values()):.2f} nats, " if not apart else ""
    worse = {name: c for name, c in others.items() if c.tied is False and c.difference is not None}
    tied = [name for name, c in others.items() if c.tied]
    word = "lowest" if found.better == "lower" else "highest"
    if not worse:
        both = "; ".join(f"{name} ({by_name[name].metrics[metric]:.3f})" for name in [group.best, *tied][:4])
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


def _why_nothing(found: Settings, metric: str) -> str:
    most = max((len(row.by_seed(found.metric or "")) for row in found.rows), default=0)
    if most < 2:
        return "each setting has one seed, and a difference between single runs may be chance (seed=1,2,3 adds seeds)"
    if found.metric == GAP and not found.groups:
        kls = [kl for row in found.rows if (kl := _kl(row)) is not None]
        where = f" (they reach {min(kls):.2f} to {max(kls):.2f} nats)" if kls else ""
        return f"no two settings have the same KL{where}, and more reward at more KL is not better"
    if any(group.still for group in found.groups) and not any(group.best for group in found.groups):
        return "no setting that moved is known to be better than the start"
    if group := next((group for group in found.groups if _told(group)), None):
        return _at_no_common_kl(found, group)
    if not any(group.best for group in found.groups):
        return "no setting is known to be better than the start"
    return "no setting has two seeds in common with another"


def _at_no_common_kl(found: Settings, group: Group) -> str:
    """Why the best setting of a group is not called the best of the sweep."""
    row = next(row for row in found.rows if found.name(row) == group.best)
    value = row.metrics[found.metric or ""]
    pairs = row.by_seed("eval/pairs/n") if found.metric == "eval/pairs/accuracy" else {}
    on = f" and {counted(int(min(pairs.values())), 'pair')}" if pairs else ""
    word = "lowest" if found.better == "lower" else "highest"
    kls = [_kl(row) for row in found.rows]
    known = [kl for kl in kls if kl is not None]
    why = f"they reach {min(known):.2f} to {max(known):.2f} nats" if len(known) == len(kls) else "it was not measured"
    return (
        f"the settings are not known to have a KL in common ({why}), and one that moved further may only seem better. "
        f"By {heading(found.metric or '')} alone, the {word} is that of {group.best}: {value.value:.3f} over "
        f"{counted(value.n, 'seed')}{on}"
    )


def _reason(found: Settings, metric: str) -> str:
    return next((line for line in conclusions(found, metric) if line.startswith("settings are not compared")), "")


def _not_compared(found: Settings, known: list[Group]) -> list[str]:
    """A sentence on settings whose KL no other setting has."""
    inside = {name for group in known for name in group.names}
    outside = [found.name(row) for row in found.rows if found.name(row) not in inside]
    return [f"Not compared, because no other setting has their KL: {_some(outside)}."] if outside else []


def _measured(found: Settings, row: Setting) -> str:
    """Its main number in words, with the interval if there are several seeds."""
    metric = next((name for name in (GAP, *BETTER) if name in row.metrics and row.metrics[name].n), None)
    if metric is None:
        return ""
    value = row.metrics[metric]
    interval = f" [{value.low:.3f}, {value.high:.3f}]" if value.n > 1 else ", with no interval"
    return f"; its {heading(metric)} is {value.value:.3f}{interval} over {counted(value.n, 'seed')}"


def _kl(row: Setting) -> float | None:
    """The mean KL of a setting: exact, or else from samples. None if it is not known."""
    for metric in (KL, SAMPLED_KL, "eval/objective/kl"):
        values = list(row.by_seed(metric).values())
        if values:
            return mean_interval(values).value
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
