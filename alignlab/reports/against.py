"""Compares a sweep with an older one, setting by setting: which numbers and which settings of the config changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alignlab.redaction import redacted_config
from alignlab.reports.collect import Collected
from alignlab.reports.series import settings_points
from alignlab.reports.tables import COLUMNS
from alignlab.runs.identity import flatten
from alignlab.spelling import counted
from alignlab.statistics.comparison import label
from alignlab.statistics.intervals import Estimate, mean_interval

_LEFT_OUT = ("start/loss", "time/train_seconds", "exact/frontier_reward")
_COSMETIC = ("sweep.", "tracking.", "output_root", "rerun", "if_running", "trainer.progress")


@dataclass(frozen=True)
class Row:
    """A metric of a setting in both sweeps. difference: now minus then, paired by seed. form: format of the numbers."""

    setting: str
    metric: str
    then: Estimate
    now: Estimate
    difference: Estimate
    seeds: int
    form: str


@dataclass(frozen=True)
class Against:
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def against(new: Collected, old: Collected) -> Against:
    """The settings that both sweeps have, and what is different about the two sweeps.

    With two or more seeds in common the difference is the mean of the differences by seed, with its t interval. With
    fewer it is the difference of the means, without an interval.
    """
    axes = list(dict.fromkeys([*new.setting_axes, *old.setting_axes]))
    now, then = (_by_setting(found, axes) for found in (new, old))
    shared = [key for key in now if key in then]
    rows = [row for key in shared for row in _rows(_name(new, axes, key, now[key]), new, now[key], old, then[key])]
    notes = [
        f"Compared with {old.name}: {counted(len(shared), 'setting')} in common. Differences are now minus then, "
        "paired by seed. Their 95 % t intervals do not count that there are several comparisons."
    ]
    for found, these, those in ((new, now, then), (old, then, now)):
        if only := [_name(found, axes, key, points) for key, points in these.items() if key not in those]:
            rest = f"; and {len(only) - 10} more" if len(only) > 10 else ""
            notes.append(f"Only in {found.name}: {'; '.join(only[:10])}{rest}.")
    same = [p["run"] for key in shared for p in now[key] if any(p["run"] == q["run"] for q in then[key])]
    if same:
        notes.append(f"The same runs are in both sweeps: {len(same)} of {len(new.done)}.")
    return Against(rows, [*notes, *_changes(new, old)])


def _name(found: Collected, axes: list[str], key: tuple[str, ...], points: list[dict[str, Any]]) -> str:
    """The name of a setting as in all other tables, or, if the other sweep has further axes, one with all of them."""
    return found.setting(points[0]) if axes == found.setting_axes else label(axes, key)


def _by_setting(found: Collected, axes: list[str]) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for points in settings_points(found).values():
        for point in points:
            key = tuple(_value(found, point, axis) for axis in axes)
            groups.setdefault(key, []).append(point)
    return groups


def _value(found: Collected, point: Mapping[str, Any], axis: str) -> str:
    """The value of an axis. If only the other sweep has the axis, it is the value in the run's config."""
    if axis in point:
        text = str(point[axis])
    elif axis == "objective":
        text = str(point["run"]).rpartition("-")[0]
    else:
        text = str(flatten(found.records[point["run"]].get("config", {})).get(axis, ""))
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def _rows(
    setting: str, new: Collected, now: list[dict[str, Any]], old: Collected, then: list[dict[str, Any]]
) -> list[Row]:
    rows = []
    for metric, (_, form) in COLUMNS.items():
        ours, theirs = (
            {found.seed(p): v for p in points if (v := found.records[p["run"]]["summary"].get(metric)) is not None}
            for found, points in ((new, now), (old, then))
        )
        if metric in _LEFT_OUT or not ours or not theirs:
            continue
        shared = [seed for seed in ours if seed in theirs]
        both = mean_interval(list(ours.values())), mean_interval(list(theirs.values()))
        if len(shared) > 1:
            difference = mean_interval([ours[seed] - theirs[seed] for seed in shared])
        else:
            difference = mean_interval([both[0].value - both[1].value])
        rows.append(Row(setting, metric, both[1], both[0], difference, len(shared), form))
    return rows


def _changes(new: Collected, old: Collected) -> list[str]:
    """Sentences on config keys and versions that are constant within each sweep and differ between the two."""
    now, then = (_constant(found) for found in (new, old))
    lines = [f"{key}: {then[key]} -> {now[key]}" for key in now if key in then and now[key] != then[key]]
    added = [f"{key}: (none) -> {now[key]}" for key in now if key not in then and key not in _varying(old)]
    return [f"Changed: {line}" for line in [*lines, *added[:20]]]


def _flats(found: Collected) -> list[dict[str, str]]:
    flats = []
    for record in found.records.values():
        if record.get("config"):
            versions = {f"version of {name}": v for name, v in (record.get("versions") or {}).items()}
            flat = {**redacted_config(flatten(record["config"])), **versions, "alignlab's revision": record.get("git")}
            flats.append({key: str(value) for key, value in flat.items() if not key.startswith(_COSMETIC)})
    return flats


def _constant(found: Collected) -> dict[str, str]:
    """Keys with the same value in all runs."""
    flats = _flats(found)
    return {key: value for key, value in (flats[0] if flats else {}).items() if all(f.get(key) == value for f in flats)}


def _varying(found: Collected) -> set[str]:
    return {key for flat in _flats(found) for key in flat}
