"""Compares the settings of a sweep and decides which can be called best.

A policy must not win by staying where it started. So settings are compared by a metric that all of them have. Rewards
and gaps to the frontier are compared only at equal KL. A setting that is not better than the start, or that hardly
moved from it, is not called best: an accuracy depends only on the signs of margins, and one tiny step can set them all.

`compare_settings` does all of it, from the numbers of the runs alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alignlab.statistics import kl_budget
from alignlab.statistics.intervals import Estimate
from alignlab.statistics.kl_budget import Budgets, same_kl
from alignlab.statistics.seeds import (
    LEVEL,
    Comparison,
    Interval,
    compare_with_best,
    interquartile_mean,
    over_seeds,
    probability_of_improvement,
)

GAP, KL, LOSS = "exact/frontier_gap", "exact/kl", "eval/loss"

# The KLs of a policy to its reference, the most exact first (nats per answer).
KLS = (KL, "eval/kl_ref/sequence_k1", "eval/objective/kl")

# Settings are compared by the first of these metrics that all of them have, unless a sweep asks for another one.
DEFAULT_METRICS = (GAP, "eval/pairs/accuracy", "eval/labels/auc", "eval/accuracy", LOSS)

# A policy has hardly moved if it moved less than this share of the largest distance.
HARDLY_MOVED = 0.25

# If no policy moved this far on the held-out pairs (nats per pair), all of them have hardly moved.
LEAST_DISTANCE = 0.01

# How far a policy moved from the start: the first of these that all settings have. Runs of older versions have the
# margin instead of the distance; pairs with opposite signs cancel in it.
_DISTANCE = "eval/pairs/distance"
_DISTANCES = (_DISTANCE, "eval/labels/distance")
_MOVEMENT = (KL, *_DISTANCES, "eval/objective/kl", "eval/kl_ref/sequence_k1", "eval/pairs/margin")

# A share near 1/2 of n pairs has a 95 % interval of ± this / sqrt(n).
_SHARE_HALF_WIDTH = 0.98

# Shares of the held-out pairs.
_SHARES_OF_PAIRS = ("eval/pairs/accuracy", "eval/accuracy")

# Metrics that count the held-out rows of an accuracy or an AUC.
COUNTS = ("eval/pairs/n", "eval/labels/n_good", "eval/labels/n_bad")

# Axes that set the strength of an objective: its settings form a curve of reward against KL.
STRENGTHS = (
    "strength", "objective.beta", "objective.tau", "objective.delta", "objective.kl_coef", "objective.target_kl",
    "objective.odds_weight",
)  # fmt: skip

# An axis that is tuned for each objective, so that its values are variants of one method.
TUNED = "optim.lr"

# metric -> seed -> value, for the finished points of a setting. A value is a number, or [P] numbers by prompt.
Values = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Run:
    """A run of a sweep.

    setting: values of the axes of settings, as text.
    seed:    the seed, or the values of all axes of repetition, as text; different for each run of a setting.
    metrics: metric -> finite number, or [P] numbers, one for each prompt; empty if the run is not finished.
    """

    setting: tuple[str, ...]
    seed: str
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class RewardKl:
    """The metrics of reward and KL that all settings have.

    kl:     KL to the reference (nats).
    reward: higher is better at equal KL.
    start:  metric with the reward of the policy before training; empty if there is none.
    """

    kl: str
    reward: str
    start: str


@dataclass(frozen=True)
class SettingStatistics:
    """A setting with the mean of each metric, its interval over seeds, and its interquartile mean."""

    name: str
    values: tuple[str, ...]
    seeds: int
    means: Mapping[str, Estimate]
    interquartile: Mapping[str, float]


@dataclass(frozen=True)
class ComparedSettings:
    """All settings of a sweep and how they compare.

    metric:      what settings are compared by; None if they can't be compared.
    better:      lower or higher.
    asked:       whether the caller chose the metric.
    plane:       the metrics of the plane of reward and KL, if all settings have them.
    groups:      settings that are compared with each other: all of them, or those with equal KL.
    budgets:     methods at common KLs, in place of `groups`; None if there is one method or no reward and KL.
    improvement: setting -> probability that a run of its group's best setting is better than one of its own. Settings
                 with one seed have none.
    values:      setting -> metric -> seed -> value.
    """

    axes: Sequence[str]
    settings: Sequence[SettingStatistics]
    metric: str | None
    better: str
    asked: bool
    plane: RewardKl | None
    groups: Sequence[Group]
    budgets: Budgets | None
    improvement: Mapping[str, float]
    values: Mapping[str, Values]

    @property
    def comparisons(self) -> dict[str, Comparison]:
        """Setting -> its comparison with the best of its group."""
        return {name: found for group in self.groups for name, found in group.comparisons.items()}

    @property
    def at_equal_kl(self) -> bool:
        """Whether the metric is one that is compared at equal KL only."""
        return not self.asked and self.plane is not None and self.metric in (GAP, self.plane.reward)


def label(axes: Sequence[str], values: Sequence[object]) -> str:
    """The name of a point or setting: its axes with their values."""
    return ", ".join(f"{axis.rpartition('.')[2]} {value}" for axis, value in zip(axes, values, strict=True))


def compare_settings(
    runs: Sequence[Run],
    axes: Sequence[str],
    *,
    metric: str = "",
    better: str = "",
    least: float = 0.0,
    interval_of: Interval = over_seeds,
) -> ComparedSettings:
    """Means, intervals and comparisons of all settings of a sweep.

    axes:   names of the axes of settings.
    metric: what to compare settings by. Empty: rewards at equal KL if all settings have reward and KL, otherwise the
            first of DEFAULT_METRICS that all have.
    better: lower or higher, for a `metric` that is given.
    least:  differences of means below this count as ties.
    interval_of: interval of a mean over seeds, or over seeds and prompts (`seeds_and_prompts.Crossed`).
    """
    values: dict[str, dict[str, dict[str, Any]]] = {}
    named = {label(axes, run.setting): run.setting for run in runs}
    for run in runs:
        own = values.setdefault(label(axes, run.setting), {})
        for name, value in run.metrics.items():
            if np.isfinite(value).all():
                own.setdefault(name, {})[run.seed] = value
    settings = [
        SettingStatistics(
            name,
            setting,
            len({seed for of in values[name].values() for seed in of}),
            {
                m: over_rows_too(interval_of(list(of.values()), LEVEL), values[name], m)
                for m, of in values[name].items()
            },
            {m: interquartile_mean(_means(of)) for m, of in values[name].items()},
        )
        for name, setting in named.items()
    ]
    plane = reward_and_kl(values)
    budgets = None
    if metric:
        chosen: str | None = metric if any(of.get(metric) for of in values.values()) else None
        groups = [list(values)]
    elif plane and (curves := _curves(axes, named, values, plane)):
        budgets, chosen, groups = kl_budget.at_common_kls(*curves, interval_of, least=least), plane.reward, []
    elif plane:
        has_gap = all(of.get(GAP) for of in values.values() if of)
        chosen, groups = (GAP if has_gap and plane.kl == KL else plane.reward), equal_kl(values, plane.kl)
        groups = [list(values)] if len(groups) == 1 else groups  # include settings without results
    else:
        chosen, groups = common_metric(values, axes), [list(values)]
    direction = better or ("lower" if chosen in (GAP, LOSS) else "higher")
    found: list[Group] = []
    if chosen and budgets is None:
        lower = direction == "lower"
        found = compare(
            values, chosen, groups, lower=lower, least=least, asked=bool(metric), plane=plane, interval_of=interval_of
        )
    improvement = {
        name: probability_of_improvement(
            _means(values[group.best].get(chosen or "", {})),
            _means(values[name].get(chosen or "", {})),
            lower_is_better=direction == "lower",
        )
        for group in found
        if group.best is not None
        for name in group.names
        if name != group.best and len(values[name].get(chosen or "", {})) > 1
    }
    return ComparedSettings(axes, settings, chosen, direction, bool(metric), plane, found, budgets, improvement, values)


def reward_and_kl(settings: Mapping[str, Values], *, exact: bool = True) -> RewardKl | None:
    """The first metrics of reward and KL that all settings with results have: exact ones, or those of samples.

    exact: whether exact metrics are preferred; otherwise they are ignored.
    """
    with_results = [values for values in settings.values() if any(values.values())]
    names = list(dict.fromkeys(name for values in with_results for name in values))
    sampled = "eval/kl_ref/sequence_k1"
    scores = [name for name in names if name.startswith("eval/score/") and name.endswith("/mean")]
    rates = [name for name in names if name.startswith("eval/winrate/") and name.count("/") == 2]
    candidates = [
        *([RewardKl(KL, "exact/reward", "exact/reward_reference")] if exact else []),
        *(RewardKl(sampled, name, name.removesuffix("/mean") + "/reference") for name in scores),
        *(RewardKl(sampled, name, name + "/reference") for name in rates),
        RewardKl("eval/objective/kl", "eval/objective/scores", ""),
    ]
    return next(
        (c for c in candidates if with_results and all(v.get(c.kl) and v.get(c.reward) for v in with_results)), None
    )


def strength_axis(axes: Sequence[str]) -> str | None:
    """The axis that sets the strength of an objective; None if there is none."""
    return next((axis for axis in STRENGTHS if axis in axes), None)


def _curves(
    axes: Sequence[str], named: Mapping[str, tuple[str, ...]], values: Mapping[str, Values], plane: RewardKl
) -> tuple[dict[str, list[kl_budget.Setting]], dict[str, str]] | None:
    """(method -> its settings, method -> its family); None unless there are several methods, one with strengths."""
    strength = strength_axis(axes)
    if strength is None:
        return None
    curves: dict[str, list[kl_budget.Setting]] = {}
    families: dict[str, str] = {}
    for name, setting in named.items():
        of = dict(zip(axes, setting, strict=True))
        method, family = (
            [axis for axis in axes if axis not in without] for without in ((strength,), (strength, TUNED))
        )
        key = label(method, [of[axis] for axis in method])
        families[key] = label(family, [of[axis] for axis in family])
        curves.setdefault(key, []).append(_on_plane(values.get(name, {}), plane))
    if len(set(families.values())) < 2:
        families = {key: key for key in curves}
    if len(curves) < 2 or all(len(curve) < 2 for curve in curves.values()):
        return None
    return curves, families


def _on_plane(values: Values, plane: RewardKl) -> kl_budget.Setting:
    return kl_budget.Setting(values.get(plane.kl, {}), values.get(plane.reward, {}), values.get(plane.start, {}))


@dataclass(frozen=True)
class Group:
    """Settings that are compared with each other.

    best:        None if no setting can be called best.
    comparisons: setting -> its comparison with the best; empty if there is no best.
    unmoved:     settings that can't be called best, because they hardly moved from the start.
    no_better:   settings that are not known to be better than the start. They can't be called best either, unless the
                 user chose the metric.
    """

    names: list[str]
    best: str | None
    comparisons: Mapping[str, Comparison]
    unmoved: Collection[str] = ()
    no_better: Collection[str] = ()


def common_metric(settings: Mapping[str, Values], axes: Sequence[str]) -> str | None:
    """The first metric that every setting with results has and that is comparable; None if there is none.

    Losses are comparable only if all settings have the same objective with the same fields.
    """
    with_results = [values for values in settings.values() if any(values.values())]
    one_objective = not any(axis.partition(".")[0] in ("objective", "strength") for axis in axes)
    comparable = [metric for metric in DEFAULT_METRICS if metric != LOSS or one_objective]
    return next((m for m in comparable if with_results and all(values.get(m) for values in with_results)), None)


def better_than_start(
    values: Values, metric: str, plane: RewardKl | None = None, interval_of: Interval = over_seeds
) -> bool | None:
    """Whether a setting is better than the start: the 95 % interval of its gain over seeds is above 0.

    The gain is that of the metric itself, or of the reward if the metric is the gap. Accuracies must also be above 1/2
    by more than the interval over pairs, which more seeds do not make narrower. None if it is not known: with fewer
    than two seeds, or with a metric whose value at the start is not known.

    plane: metrics of reward and KL; its reward's value at the start is known.
    """
    if metric == GAP:
        gains = _differences(values, "exact/reward", "exact/reward_reference")
    elif plane is not None and metric == plane.reward:
        own = _on_plane(values, plane)
        gains = [value - own.start[seed] for seed, value in own.reward.items() if seed in own.start]
        if not gains:
            return None
    elif metric == LOSS:
        gains = _differences(values, "start/loss", LOSS)
    elif metric in ("eval/pairs/accuracy", "eval/labels/auc", "eval/accuracy"):
        gains = [value - 0.5 for value in values.get(metric, {}).values()]
    else:
        return None
    interval = interval_of(gains, LEVEL)
    if interval.n < 2:
        return None
    return interval.low > 0 and interval.value > _error_at_chance(values, metric)


def seeds_agree(mean: Estimate) -> bool:
    """Whether several seeds have the same value, so that their t interval has no width."""
    return mean.n > 1 and mean.standard_error < 1e-12  # rounding of a mean


def over_rows_too(mean: Estimate, values: Values, metric: str) -> Estimate:
    """The interval of a share of held-out rows, over these rows if all seeds agree: a width of 0 would mean certainty.

    Other metrics keep their interval: a loss at the start is the same number for every seed.
    """
    half = _error_at_chance(values, metric) if seeds_agree(mean) else 0.0
    return replace(mean, low=max(0.0, mean.value - half), high=min(1.0, mean.value + half)) if half else mean


def _error_at_chance(values: Values, metric: str) -> float:
    """Half of the 95 % interval of a share near 1/2 over held-out rows, which more seeds do not make narrower."""
    if metric in _SHARES_OF_PAIRS:
        return _SHARE_HALF_WIDTH / math.sqrt(_fewest(values, "eval/pairs/n"))
    if metric == "eval/labels/auc":  # the Mann-Whitney statistic has the variance (g + b + 1) / (12 g b)
        good, bad = (_fewest(values, f"eval/labels/n_{kind}") for kind in ("good", "bad"))
        return 2 * _SHARE_HALF_WIDTH * math.sqrt((good + bad + 1) / (12 * good * bad)) if good + bad < math.inf else 0.0
    return 0.0


def _fewest(values: Values, count: str) -> float:
    """The smallest positive count of any seed; infinite if there is none."""
    return min((float(n) for n in values.get(count, {}).values() if n > 0), default=math.inf)


def equal_kl(settings: Mapping[str, Values], metric: str = KL) -> list[list[str]]:
    """Groups of settings with equal KL, smallest KL first. In a group, all mean KLs equal the smallest (`same_kl`)."""
    kl = {name: float(np.mean(list(of[metric].values()))) for name, of in settings.items() if of.get(metric)}
    groups: list[list[str]] = []
    for name in sorted(kl, key=lambda name: kl[name]):
        if groups and same_kl(kl[name], kl[groups[-1][0]]):
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
    plane: RewardKl | None = None,
    interval_of: Interval = over_seeds,
) -> list[Group]:
    """Find the best setting of each group and compare the others with it. The intervals hold for all groups at once.

    lower: whether lower is better.
    least: differences of means below this count as ties.
    asked: whether the user chose the metric. Then a setting that hardly moved, or is not better than the start, can be
           best, too.
    plane: metrics of reward and KL, if all settings have them.
    interval_of: interval of a mean.

    A setting can also be best if there are too few seeds to know whether it is better than the start.
    """
    several = [group for group in groups if len(group) > 1]
    count = sum(sum(bool(settings[name].get(metric)) for name in group) - 1 for group in several)
    found = []
    for group in several:
        values = {name: settings[name].get(metric, {}) for name in group}
        # Distances are compared within the group: settings with equal KL have moved about equally far.
        unmoved = [] if asked else list(hardly_moved({name: settings[name] for name in group}))
        weak = [n for n in group if better_than_start(settings[n], metric, plane, interval_of) is False]
        candidates = [name for name in group if asked or name not in (*unmoved, *weak)]
        best, comparisons = compare_with_best(
            values, lower_is_better=lower, least=least, candidates=candidates, comparisons=count,
            rows=_held_out_pairs(settings, group) if metric == "eval/pairs/accuracy" else None, interval_of=interval_of,
        )  # fmt: skip
        found.append(Group(list(group), best, comparisons, unmoved, weak))
    return found


def _held_out_pairs(settings: Mapping[str, Values], group: Sequence[str]) -> int | None:
    """The smallest number of held-out pairs of any run of the group; None if it is not known."""
    fewest = min(_fewest(settings[name], "eval/pairs/n") for name in group)
    return int(fewest) if math.isfinite(fewest) else None


def hardly_moved(settings: Mapping[str, Values]) -> dict[str, float]:
    """Setting -> how far it moved (nats), for those that hardly moved; empty if not known.

    These are the settings that moved less than HARDLY_MOVED times the largest distance, or all of them if none moved
    LEAST_DISTANCE on the held-out pairs.
    """
    moved = {name: values for name, values in settings.items() if any(values.values())}
    metric = next((m for m in _MOVEMENT if moved and all(values.get(m) for values in moved.values())), None)
    if metric is None:
        return {}
    means = {name: abs(float(np.mean(list(values[metric].values())))) for name, values in moved.items()}
    farthest = max(means.values())
    if metric in _DISTANCES and farthest < LEAST_DISTANCE:
        return means
    return {name: mean for name, mean in means.items() if mean < HARDLY_MOVED * farthest}


def strengths_to_add(axes: Sequence[str], named: Mapping[tuple[str, ...], float]) -> str:
    """Advice on strengths to add, so that all methods reach a common KL; empty if strength is not an axis.

    named: mean KL of settings by the values of their axes.
    """
    strength = strength_axis(axes)
    if strength is None or not _has_numeric_values(axes, strength, named):
        return ""
    place = axes.index(strength)
    others = [axis for axis in axes if axis != strength]
    methods: dict[tuple[str, ...], dict[float, float]] = {}
    for values, kl in named.items():
        methods.setdefault((*values[:place], *values[place + 1 :]), {})[float(values[place])] = kl
    if len(methods) < 2:
        return ""
    low, high = (f(g(of.values()) for of in methods.values()) for f, g in ((max, min), (min, max)))
    target = math.sqrt(max(low, 1e-12) * max(high, 1e-12))
    added = [f"{label(others, method)} {_strength_range(of, target)}" for method, of in methods.items()]
    where = f"near one KL, {target:.2g} nats"
    return f"to have settings of all methods {where}, add values of {strength}: {'; '.join(added)}"


def _strength_range(kl_at: Mapping[float, float], target: float) -> str:
    """The strengths at which a KL is expected, as text: a range or a bound. A larger strength has a smaller KL."""
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


def _means(of: Mapping[str, Any]) -> list[float]:
    """The mean over prompts of each seed."""
    return [float(np.mean(value)) for value in of.values()]


def _differences(values: Values, first: str, second: str) -> list[Any]:
    """first - second, for every seed that has both metrics."""
    a, b = values.get(first, {}), values.get(second, {})
    return [a[seed] - b[seed] for seed in a if seed in b]
