"""What a run has to be as good as to go on: a search stops losers early."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

PRUNED = "pruned"  # how the reason of a run that was stopped so begins


@dataclass(frozen=True)
class PruningThresholds:
    """Medians of earlier runs by optimizer step; a run that is worse at one of these steps is stopped there."""

    metric: str
    minimize: bool
    medians: Mapping[int, float]

    @classmethod
    def of(cls, metric: str, *, minimize: bool, earlier: list[Mapping[int, float]], least: int) -> PruningThresholds:
        """From the values that earlier runs had, by step; steps that fewer than `least` came to do not count."""
        steps = sorted({step for values in earlier for step in values})
        found = {step: [values[step] for values in earlier if step in values] for step in steps}
        return cls(metric, minimize, {step: median(values) for step, values in found.items() if len(values) >= least})

    def verdict(self, step: int, value: float) -> str:
        """Why a run with this value at this step is stopped; empty where it goes on."""
        if step not in self.medians:
            return ""
        there = self.medians[step]
        if not (value > there if self.minimize else value < there):
            return ""
        return f"{PRUNED} at step {step}: {self.metric} {value:.4g}, the median of earlier runs there is {there:.4g}"
