"""The finished runs of a claim that is measured by training, read from their directories."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignlab.checks import with_parts
from alignlab.data.sources.enumerable import Enumerable
from alignlab.papers.claim import Curve
from alignlab.runs.directory import RunDir
from alignlab.runs.identity import flatten
from alignlab.runs.sweep_record import read_sweep_record
from alignlab.statistics.intervals import mean_interval
from alignlab.tracking.sinks.jsonl import read_rows


@dataclass(frozen=True)
class Finished:
    """A run of a sweep.

    axes:   the values that the sweep gave it, as they were typed; keys without the + of an added key.
    record: its run.json.
    """

    run: RunDir
    axes: Mapping[str, str]
    record: Mapping[str, Any]

    @property
    def seed(self) -> int:
        return int(self.axes["seed"])

    @property
    def setting(self) -> str:
        """The values of all axes but the seed."""
        return " ".join(f"{key}={value}" for key, value in self.axes.items() if key != "seed")

    @property
    def config(self) -> dict[str, Any]:
        """The effective config with dotted keys."""
        return flatten(self.record["config"])

    def metric(self, name: str) -> float:
        """A metric of the run's summary; NaN if the run diverged or has no such metric."""
        return (
            float(self.record.get("summary", {}).get(name, math.nan)) if self.record["status"] == "done" else math.nan
        )

    @property
    def data(self) -> Enumerable:
        """The data of a run on `data=enumerable`."""
        return Enumerable(**with_parts(Enumerable, self.record["config"]["data"]))

    def curve(self, name: str) -> dict[int, float]:
        """Update -> a metric that was logged along the run; empty if the run has none."""
        rows = read_rows(self.run.metrics)
        return {int(row["train/global_step"]): float(row[name]) for row in rows if name in row}

    def action_probabilities(self) -> NDArray[np.float64]:
        """[A] probability of each action of `data=bandit` under the trained policy; NaN if the run diverged."""
        return np.array([self.metric(f"exact/action/{letter}") for letter in self.config["data.alphabet"]])


def runs_of_sweep(output_root: Path, name: str) -> list[Finished]:
    """The runs of a finished sweep, in the order of its points. Raises OSError if there is no such sweep."""
    sweep = read_sweep_record(output_root / "sweeps" / name)
    found = []
    for point in sweep["points"]:
        run = RunDir.of(output_root, point["run"])
        axes = {key.lstrip("+"): value for key, value in point.items() if key not in ("point", "run")}
        found.append(Finished(run, axes, run.record()))
    return found


def by_setting(runs: Sequence[Finished], value: str | Callable[[Finished], float]) -> dict[str, dict[int, float]]:
    """Setting -> seed -> a metric of the summary, or a function of the run."""
    found: dict[str, dict[int, float]] = {}
    for run in runs:
        found.setdefault(run.setting, {})[run.seed] = run.metric(value) if isinstance(value, str) else value(run)
    return found


def over_seeds(values: Mapping[str, Mapping[int, float]], setting: str) -> list[float]:
    """The values of a setting, in the order of the seeds."""
    return [values[setting][seed] for seed in sorted(values[setting])]


def mean_curves(runs: Sequence[Finished], metric: str) -> dict[str, Curve]:
    """Setting -> the mean over seeds of a logged metric, at the updates at which all seeds have it; 5 digits."""
    found: dict[str, list[dict[int, float]]] = {}
    for run in runs:
        found.setdefault(run.setting, []).append(run.curve(metric))
    curves = {}
    for setting, seeds in found.items():
        steps = sorted(set.intersection(*map(set, seeds)))
        means = [mean_interval([values[step] for values in seeds]) for step in steps]
        y, low, high = (tuple(float(f"{getattr(mean, end):.5g}") for mean in means) for end in ("value", "low", "high"))
        curves[setting] = Curve(tuple(map(float, steps)), y, low, high)
    return curves


def paired_difference(values: Mapping[str, Mapping[int, float]], one: str, other: str) -> list[float]:
    """The first setting minus the second, seed by seed."""
    return [values[one][seed] - values[other][seed] for seed in sorted(values[one])]
