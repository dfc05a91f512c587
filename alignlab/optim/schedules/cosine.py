"""Decay along half a cosine, which would reach 0 one step after the last step."""

from __future__ import annotations

import math

from alignlab.optim.schedules.base import Schedule


class Cosine(Schedule):
    def factor(self, progress: float) -> float:
        return (1.0 + math.cos(math.pi * progress)) / 2
