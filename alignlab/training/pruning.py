"""Thresholds by which a search stops bad runs early."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

PRUNED = "pruned"  # the first word of a pruned run's `reason`


@dataclass(frozen=True)
class PruningThresholds:
    """Medians of earlier runs by optimizer step. A run that is worse than the median of a step is stopped there.

    metric:   name of the metric that is compared.
    minimize: whether smaller values are better.
    medians:  optimizer step -> median.
    """

    metric: str
    minimize: bool
    medians: Mapping[int, float]

    @classmethod
    def of(cls, metric: str, *, minimize: bool, earlier: list[Mapping[int, float]], least: int) -> PruningThresholds:
        """Thresholds from earlier runs.

        earlier: for each run, optimizer step -> value of the metric.
        least:   steps that fewer runs reached have no threshold.
        """
        steps = sorted({step for values in earlier for step in values})
        found = {step: [values[step] for values in earlier if step in values] for step in steps}
        return cls(metric, minimize, {step: median(values) for step, values in found.items() if len(values) >= least})

    def verdict(self, step: int, value: float) -> str:
        """Why a run with this value at this step is stopped; empty if it continues."""
        if step not in self.medians:
            return ""
        bound = self.medians[step]
        if not (value > bound if self.minimize else value < bound):
            return ""
        return f"{PRUNED} at step {step}: {self.metric} {value:.4g}, the median of earlier runs there is {bound:.4g}"
