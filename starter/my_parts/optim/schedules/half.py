"""The peak learning rate in the first half, a tenth of it in the second half."""

from __future__ import annotations

from alignlab.optim.schedules.base import Schedule


class Half(Schedule):
    """optim.schedule=half"""

    def factor(self, progress: float) -> float:
        return 1.0 if progress < 0.5 else 0.1
