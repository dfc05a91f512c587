"""The peak learning rate."""

from __future__ import annotations

from alignlab.optim.schedules.base import Schedule


class Constant(Schedule):
    def factor(self, progress: float) -> float:
        return 1.0
