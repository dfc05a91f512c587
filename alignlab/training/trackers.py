"""What trackers are told about a run: its readable name, tags, axes, parents and config. Opens its trackers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignlab.config.plan import Plan
from alignlab.errors import DamagedError
from alignlab.runs.directory import RunDir
from alignlab.runs.identity import flatten
from alignlab.runs.sweep_record import read_sweep_record
from alignlab.tracking.sinks.base import RunIdentity, Sink

# What follows the first group of a match is a credential.
_CREDENTIALS = re.compile(r"(://(?=[^/\s@]+@)|[?&](?:api_?key|key|token|secret|password)=)[^&\s@]+", re.IGNORECASE)

# Axes whose values the name of a run shows in another way.
_SHOWN_OTHERWISE = ("objective", "strength", "seed")
_LONGEST_VALUE = 40  # characters of an axis' value in a name


def open_trackers(plan: Plan, run: RunDir, group: str | None, facts: Mapping[str, Any]) -> list[Sink]:
    """The opened trackers of a run. `facts` are added to its config."""
    identity = identity_of(plan, run, group, facts)
    return [tracker.open(identity) for tracker in plan.train.tracking.values()]


def identity_of(plan: Plan, run: RunDir, group: str | None, facts: Mapping[str, Any]) -> RunIdentity:
    """What trackers need to know about a run.

    group: name of the sweep that the run belongs to.
    facts: further entries of the config that trackers show.
    """
    kind, axes = kind_of(run.id), _axes(plan, run.id, group)
    needed = {"parent/run": plan.parent, "reward/run": plan.reward}
    ids = {name: other.id for name, other in needed.items() if other is not None}
    return RunIdentity(
        id=run.id,
        directory=run.path,
        group=group,
        job_type=kind,
        name=readable_name(plan, run.id, axes),
        tags=[kind, *(name for group, name in plan.kinds.items() if group in ("model", "data"))],
        notes="; ".join(f"{name.partition('/')[0]}: {other}" for name, other in ids.items()),
        config=without_credentials(
            {
                **plan.config,
                "objective/name": kind,
                "job/hash": run.id,
                "sweep/id": group,
                "sweep/axes": axes,
                **ids,
                **facts,
            }
        ),
    )


def without_credentials(value: Any) -> Any:
    """A config in which *** stands for the credentials in addresses (`https://user:password@host`, `?api_key=...`)."""
    if isinstance(value, Mapping):
        return {key: without_credentials(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_credentials(inner) for inner in value]
    return _CREDENTIALS.sub(r"\1***", value) if isinstance(value, str) else value


def readable_name(plan: Plan, run_id: str, axes: Mapping[str, Any]) -> str:
    """A name for people: objective, strength, the sweep's other axes, and seed, such as `dpo beta=0.1 seed=1`."""
    objective = plan.train.objective
    field = objective.strength
    parts = [kind_of(run_id)]
    if field and not isinstance(getattr(objective, field), dict | list):
        parts.append(f"{field}={getattr(objective, field):g}")
    hidden = (*_SHOWN_OTHERWISE, f"objective.{field}")
    parts += [
        f"{axis.rpartition('.')[2]}={str(value)[:_LONGEST_VALUE]}" for axis, value in axes.items() if axis not in hidden
    ]
    return " ".join([*parts, f"seed={plan.train.seed}"])


def kind_of(run_id: str) -> str:
    """The objective's name in the id of a run."""
    return run_id.rpartition("-")[0]


def _axes(plan: Plan, run_id: str, group: str | None) -> dict[str, Any]:
    """Axis -> value of a point, from the record of its sweep. Empty for runs that are no point of a sweep."""
    if not group:
        return {}
    try:
        sweep = read_sweep_record(Path(plan.train.output_root) / "sweeps" / group)
        point: dict[str, Any] = next((point for point in sweep["points"] if point["run"] == run_id), {})
        axes = sweep["axes"]
    except (OSError, DamagedError):  # a search has no list of points
        return {}
    values = flatten(plan.config)
    return {axis: values.get(axis, point[axis]) for axis in axes if axis in point}
