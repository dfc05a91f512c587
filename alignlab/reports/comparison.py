"""Compares the settings of a sweep and decides which can be called best.

A policy must not win by staying where it started. So settings are compared by a metric that all of them have. The gap
to the frontier is compared only at equal KL. A setting that is not better than the start, or that hardly moved from it,
is not called best: an accuracy sees only signs, and one tiny step can set them all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alignlab.reports.tables import label
from alignlab.statistics.intervals import mean_interval
from alignlab.statistics.seeds import Comparison, compare_with_best

GAP, KL, LOSS = "exact/frontier_gap", "exact/kl", "eval/loss"

# Settings are compared by the first of these metrics that all of them have, unless a sweep asks for another one.
DEFAULT_METRICS = (GAP, "eval/pairs/accuracy", "eval/accuracy", LOSS)

# KLs that differ by a smaller factor count as equal.
SAME_KL = 1.25

# A policy has hardly moved if it moved less than this share of what the farthest one did.
HARDLY_MOVED = 0.25

# If no policy moved this far on the held-out pairs (nats per pair), all of them have hardly moved.
LEAST_DISTANCE = 0.01

# How far a policy moved from the start: the first of these that all settings have. In the margin, which runs of older
# versions have instead of the distance, pairs with opposite signs cancel.
_DISTANCE = "eval/pairs/distance"
_MOVEMENT = (KL, _DISTANCE, "eval/objective/kl", "eval/pairs/margin")

# A share near 1/2 of n pairs has a 95 % interval of ± this / sqrt(n).
_SHARE_HALF_WIDTH = 0.98

# All metrics of a run that comparing uses.
METRICS_USED = (
    *DEFAULT_METRICS, *_MOVEMENT, "exact/reward", "exact/reward_reference", "start/loss", "eval/pairs/n",
)  # fmt: skip

# metric -> seed -> value, for the finished points of a setting
Values = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Group:
    """Settings that are compared with each other.

    best:        None if no setting can be called best.
    comparisons: setting -> its comparison with the best; empty if there is no best.
    still:       settings that can't be called best, since they hardly moved from the start.
    """

    names: list[str]
    best: str | None
    comparisons: Mapping[str, Comparison]
    still: Collection[str] = ()


def common_metric(settings: Mapping[str, Values], axes: Sequence[str]) -> str | None:
    """The first metric that every setting with results has and that means the same for all; None if there is none.

    Losses mean the same only for one objective with the same fields.
    """
    with_results = [values for values in settings.values() if any(values.values())]
    one_objective = not any(axis.partition(".")[0] in ("objective", "strength") for axis in axes)
    comparable = [metric for metric in DEFAULT_METRICS if metric != LOSS or one_objective]
    return next((m for m in comparable if with_results and all(values.get(m) for values in with_results)), None)


def better_than_start(values: Values, metric: str) -> bool | None:
    """Whether a setting is better than the policy that it started from, beyond its 95 % interval over seeds.

    The metric itself decides, except for the gap, where the reward does. Accuracies must also be above 1/2 by more than
    the interval over pairs, which more seeds do not make narrower. None if it is not known: with fewer than two seeds,
    or a metric whose value at the start is not known.
    """
    if metric == GAP:
        gains = _differences(values, "exact/reward", "exact/reward_reference")
    elif metric == LOSS:
        gains = _differences(values, "start/loss", LOSS)
    elif metric in ("eval/pairs/accuracy", "eval/accuracy"):
        gains = [value - 0.5 for value in values.get(metric, {}).values()]
    else:
        return None
    interval = mean_interval(gains)
    if interval.n < 2:
        return None
    pairs = values.get("eval/pairs/n", {}) if metric == "eval/pairs/accuracy" else {}
    return interval.low > 0 and interval.value > _SHARE_HALF_WIDTH / math.sqrt(min(pairs.values(), default=math.inf))


def equal_kl(settings: Mapping[str, Values]) -> list[list[str]]:
    """Groups of settings with equal KL, smallest KL first. In a group, mean KLs differ by at most a factor SAME_KL."""
    kl = {name: float(np.mean(list(values[KL].values()))) for name, values in settings.items() if values.get(KL)}
    groups: list[list[str]] = []
    for name in sorted(kl, key=lambda name: kl[name]):
        if groups and kl[name] <= SAME_KL * kl[groups[-1][0]]:
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups


def compare(
    settings: Mapping[str, Values],
    metric: str,
    groups: Sequence[Sequence[str]],
    *,
    lower: bool,
    least: float,
    asked: bool,
) -> list[Group]:
    """Find the best setting of each group and compare the others with it. The intervals hold for all groups at once.

    lower: whether lower is better.
    least: differences of means below this count as ties.
    asked: whether the user chose the metric. Then a setting that hardly moved, or is not better than the start, can be
           best, too.

    A setting can also be best if there are too few seeds to know whether it is better than the start.
    """
    several = [group for group in groups if len(group) > 1]
    count = sum(sum(bool(settings[name].get(metric)) for name in group) - 1 for group in several)
    found = []
    for group in several:
        values = {name: settings[name].get(metric, {}) for name in group}
        # compared within the group, whose settings have moved equally far if it is one of equal KL
        still = [] if asked else list(hardly_moved({name: settings[name] for name in group}))
        moved = [name for name in group if name not in still]
        can_be = [name for name in moved if asked or better_than_start(settings[name], metric) is not False]
        best, comparisons = compare_with_best(
            values, lower_is_better=lower, least=least, candidates=can_be, comparisons=count
        )
        found.append(Group(list(group), best, comparisons, still))
    return found


def hardly_moved(settings: Mapping[str, Values]) -> dict[str, float]:
    """Setting -> how far it moved (nats), for those that hardly moved; empty if not known.

    These are the settings that moved less than HARDLY_MOVED of what the farthest did, or all of them if none moved
    LEAST_DISTANCE on the held-out pairs.
    """
    moved = {name: values for name, values in settings.items() if any(values.values())}
    metric = next((m for m in _MOVEMENT if moved and all(values.get(m) for values in moved.values())), None)
    if metric is None:
        return {}
    means = {name: abs(float(np.mean(list(values[metric].values())))) for name, values in moved.items()}
    farthest = max(means.values())
    if metric == _DISTANCE and farthest < LEAST_DISTANCE:
        return means
    return {name: mean for name, mean in means.items() if mean < HARDLY_MOVED * farthest}


def strengths_to_add(axes: Sequence[str], named: Mapping[tuple[str, ...], float]) -> str:
    """Advice on strengths to add, so that all methods reach a common KL; empty if strength is not an axis.

    named: mean KL of settings by the values of their axes.
    """
    strengths = [
        a for a in axes if a == "strength" or (a.startswith("objective.") and _has_numeric_values(axes, a, named))
    ]
    if len(strengths) != 1:
        return ""
    place = axes.index(strengths[0])
    others = [axis for axis in axes if axis != strengths[0]]
    methods: dict[tuple[str, ...], dict[float, float]] = {}
    for values, kl in named.items():
        methods.setdefault((*values[:place], *values[place + 1 :]), {})[float(values[place])] = kl
    if len(methods) < 2:
        return ""
    low, high = (f(g(of.values()) for of in methods.values()) for f, g in ((max, min), (min, max)))
    target = math.sqrt(max(low, 1e-12) * max(high, 1e-12))
    added = [f"{label(others, method)} {_strength_range(of, target)}" for method, of in methods.items()]
    return f"to compare at one KL, about {target:.2g} nats, add values of {strengths[0]}: {'; '.join(added)}"


def _strength_range(kl_at: Mapping[float, float], target: float) -> str:
    """Text with the strengths between which, or beyond which, a KL is reached. A larger strength has a smaller KL."""
    above = [strength for strength, kl in kl_at.items() if kl >= target]
    below = [strength for strength, kl in kl_at.items() if kl < target]
    if above and below:
        return f"between {max(above):g} and {min(below):g}" if max(above) < min(below) else f"near {max(above):g}"
    return f"above {max(above):g}" if above else f"below {min(below):g}"


def _has_numeric_values(axes: Sequence[str], axis: str, named: Mapping[tuple[str, ...], float]) -> bool:
    try:
        return bool([float(values[axes.index(axis)]) for values in named])
    except ValueError:
        return False


def _differences(values: Values, first: str, second: str) -> list[float]:
    """first - second, for every seed that has both metrics."""
    a, b = values.get(first, {}), values.get(second, {})
    return [a[seed] - b[seed] for seed in a if seed in b]
