"""Linear decay, which would reach 0 one step after the last step."""

from __future__ import annotations

from alignlab.optim.schedules.base import Schedule


class Linear(Schedule):
    def factor(self, progress: float) -> float:
        return 1.0 - progress
