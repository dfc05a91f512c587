"""The points of a sweep: all combinations of its axes, except for axes that are zipped and points that are excluded."""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.types import Override, RangeSweep

from alignlab.errors import Problem
from alignlab.spelling import as_typed, correct_spelling, counted

log = logging.getLogger(__name__)

# Points of a sweep that are planned at most. More of them would take minutes and gigabytes before anything is said.
MOST_POINTS = 10_000

# What is wrong with an axis over output_root.
ONE_FOLDER = "is the same for all runs of a sweep"


@dataclass(frozen=True)
class Grid:
    """The points of a sweep.

    jobs:     the overrides of each point, in the order in which they were typed.
    axes:     keys that take several values.
    problems: what is wrong with the axes.
    """

    jobs: list[list[str]]
    axes: list[str]
    problems: list[Problem]


def grid(overrides: Sequence[Override], zipped: Sequence[Sequence[str]], excluded: Sequence[Mapping[str, Any]]) -> Grid:
    """Every combination of the axes' values. The last axis changes fastest.

    overrides: parsed overrides. If two have the same key, the later one counts.
    zipped:    groups of axes that take their values together, one by one. All axes of a group have as many values.
    excluded:  combinations that are left out, each a mapping from axes to a value or a list of values. A point is left
               out if it agrees with all entries of one mapping.
    The result lists what is wrong in `problems`. Its points are then those without the wrong parts.
    """
    settings: dict[str, list[str]] = {}
    axes: list[str] = []
    problems: list[Problem] = []
    for override in overrides:
        key = str(override.get_key_element())
        if key in axes:
            axes.remove(key)
        settings.pop(key, None)
        if not override.is_sweep_override():
            settings[key] = [override.input_line or f"{key}={override.get_value_element_as_str()}"]
        elif key == "output_root":
            problems.append(Problem(key, _text(override), ONE_FOLDER, f"{key}=<one folder>"))
        elif not override.is_discrete_sweep():
            text = "is an interval, and a grid needs values: list them, or use range(start,stop,step)"
            problems.append(Problem(key, _text(override), text, f"{key}=...,..."))
        else:
            try:
                values = values_of(override)
            except ValueError as error:
                problems.append(Problem(key, _text(override), str(error), f"{key}=...,..."))
                continue
            settings[key] = [f"{key}={value}" for value in values]
            axes.append(key)
    groups, found = _zip_groups(zipped, {axis: len(settings[axis]) for axis in axes})
    if (number := _size(settings, groups)) > MOST_POINTS:
        text = f"these axes have {number:,} points, and a sweep has at most {MOST_POINTS:,}"
        return Grid([], axes, [*problems, *found, Problem(", ".join(axes), None, text)])
    jobs = list(_combinations(settings, groups))
    jobs, more = _without(excluded, jobs, axes)
    return Grid(jobs, axes, [*problems, *found, *more])


def _size(settings: Mapping[str, Sequence[str]], groups: Sequence[Sequence[str]]) -> int:
    """The number of combinations, before they are made."""
    followers = {key for group in groups for key in group[1:]}
    return math.prod(len(values) for key, values in settings.items() if key not in followers)


def values_of(override: Override) -> list[str]:
    """The values of a list, a choice or a range, as they would be typed. Raises ValueError if there are none.

    The values of a range are computed in decimal numbers. Hydra adds up floating-point steps, and 0.1 + 0.1 + 0.1 is
    not 0.3: that value would make another run, and a range could have one value too many.
    """
    sweep = override.value()
    if isinstance(sweep, RangeSweep):
        return _numbers(sweep)
    try:
        values = list(override.sweep_string_iterator())
    except Exception as error:  # the errors of Hydra and OmegaConf have no common base
        raise ValueError("is not a list of values; a range can't be combined with other values") from error
    if not values:  # a glob over a key that is no group
        raise ValueError("has no values")
    return values


def _numbers(sweep: RangeSweep) -> list[str]:
    """start, start + step, ... before stop. Raises ValueError if there are none, or more than a sweep may have."""
    start, stop, step = (Decimal(str(end)) for end in (sweep.start, sweep.stop, sweep.step))
    if not (start.is_finite() and stop.is_finite() and step.is_finite()):
        raise ValueError("needs finite numbers")
    number = max(0, math.ceil((stop - start) / step)) if step else 0
    if not number:
        raise ValueError("has no values")
    if number > MOST_POINTS:
        raise ValueError(f"has {number:,} values, and a sweep has at most {MOST_POINTS:,} points")
    found = [start + i * step for i in range(number)]
    if sweep.shuffle:
        random.shuffle(found)
    whole = all(isinstance(end, int) for end in (sweep.start, sweep.stop, sweep.step))
    return [str(int(number)) if whole else repr(float(number)) for number in found]


def _text(override: Override) -> str:
    return str(override.input_line).split("=", 1)[1]


def _zip_groups(zipped: Sequence[Sequence[str]], lengths: Mapping[str, int]) -> tuple[list[list[str]], list[Problem]]:
    """Groups of axes that can be zipped, and what is wrong with the others."""
    good: list[list[str]] = []
    problems: list[Problem] = []
    for group in zipped:
        shown = f"[{', '.join(group)}]"
        unknown = [axis for axis in group if axis not in lengths]
        taken = [axis for axis in group if any(axis in other for other in good)]
        counts = {axis: lengths[axis] for axis in group if axis in lengths}
        problems += [_no_axis("sweep.zip", axis, lengths) for axis in unknown]
        if len(set(group)) < 2:
            problems.append(
                Problem("sweep.zip", shown, "must name at least two axes", "'sweep.zip=[[objective,seed]]'")
            )
        elif taken:
            problems.append(Problem("sweep.zip", shown, f"names {', '.join(taken)} a second time"))
        elif len(set(counts.values())) > 1:
            lengths_shown = ", ".join(f"{axis} {number}" for axis, number in counts.items())
            text = f"zipped axes must have equal numbers of values; these have: {lengths_shown}"
            problems.append(Problem("sweep.zip", shown, text))
        elif not unknown:
            good.append(list(group))
    return good, problems


def _combinations(settings: Mapping[str, list[str]], groups: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """The product over settings. A group of zipped axes varies like a single axis, in the place of its first member."""
    group_of = {key: group for group in groups for key in group}
    blocks: list[list[tuple[str, ...]]] = []
    keys: list[str] = []
    for key in settings:
        if key not in keys:
            together = [k for k in settings if k in group_of[key]] if key in group_of else [key]
            keys += together
            blocks.append(list(zip(*(settings[k] for k in together), strict=True)))
    place = {key: i for i, key in enumerate(keys)}
    for choice in itertools.product(*blocks):
        flat = list(itertools.chain.from_iterable(choice))
        yield [flat[place[key]] for key in settings]


def _without(
    excluded: Sequence[Mapping[str, Any]], jobs: list[list[str]], axes: Sequence[str]
) -> tuple[list[list[str]], list[Problem]]:
    """The jobs that agree with no mapping of `excluded`, and what is wrong with the mappings."""
    problems = [_no_axis("sweep.exclude", str(axis), axes) for entry in excluded for axis in entry if axis not in axes]
    entries = [{str(a): _plain_set(v) for a, v in entry.items()} for entry in excluded]
    if not all(entries):
        problems.append(Problem("sweep.exclude", "{}", "must name an axis and its value", "'sweep.exclude=[{seed:1}]'"))
    if problems:
        return jobs, problems
    typed = [dict(text.partition("=")[::2] for text in job) for job in jobs]
    taken = {axis: dict.fromkeys(point[axis] for point in typed) for axis in axes}
    if problems := [p for entry in excluded for axis, value in entry.items() for p in _not_taken(axis, value, taken)]:
        return jobs, problems
    points = [{key: _plain(value) for key, value in point.items()} for point in typed]
    fits = [[all(point[a] in values for a, values in entry.items()) for point in points] for entry in entries]
    for entry, found in zip(excluded, fits, strict=True):
        if not any(found):
            log.warning("sweep.exclude: %s leaves out no point", as_typed(entry))
    kept = [job for i, job in enumerate(jobs) if not any(found[i] for found in fits)]
    if jobs and not kept:
        text = f"leaves nothing of {counted(len(jobs), 'point')}"
        return jobs, [Problem("sweep.exclude", excluded, text, "'sweep.exclude=[]'")]
    return kept, []


def _not_taken(axis: str, value: Any, taken: Mapping[str, Iterable[str]]) -> Iterator[Problem]:
    """The problem of an entry of `sweep.exclude` with values that its axis does not have."""
    if wrong := _plain_set(value) - _plain_set(list(taken[axis])):
        text = f"{axis} has no such value in this sweep; it has: {', '.join(taken[axis])}"
        shown = [entry for entry in _listed(value) if _plain(entry) in wrong]
        yield Problem("sweep.exclude", {axis: shown if len(shown) > 1 else shown[0]}, text)


def _no_axis(key: str, axis: str, axes: Sequence[str] | Mapping[str, Any]) -> Problem:
    guess = correct_spelling(axis, axes)
    hint = f"; did you mean {guess}?" if guess else ""
    return Problem(key, axis, f"is not an axis of this sweep; there are: {', '.join(axes) or 'none'}{hint}")


def _plain(value: Any) -> float | str:
    """A value in a form that can be compared: 1, 1.0 and "1.0" are the same."""
    text = str(value).strip().strip("'\"")
    try:
        return float(text)
    except ValueError:
        return text.lower() if text.lower() in ("true", "false") else text


def _plain_set(value: Any) -> set[float | str]:
    return {_plain(v) for v in _listed(value)}


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
