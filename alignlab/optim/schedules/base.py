"""Base of schedules: the course of the learning rate after the warm-up."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Schedule(ABC):
    """Base of all schedules. `optim.schedule=<name of its file>` chooses one. A schedule has no settings."""

    @abstractmethod
    def factor(self, progress: float) -> float:
        """The learning rate as a share of its peak.

        progress: share of the updates after the warm-up that are done, in [0, 1).
        """
