"""Metrics as sums and counts: added over micro-batches and processes, divided once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

# name -> (numerator, denominator), both already summed over the rows of a micro-batch
Sums = Mapping[str, tuple[Tensor, Tensor]]


class MetricSums:
    """Accumulates (sum, count) per metric; in float64 on the CPU, so that the order of addition does not show."""

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = defaultdict(lambda: torch.zeros(2, dtype=torch.float64))

    def add(self, sums: Sums) -> None:
        """Add one micro-batch; all its metrics leave the device in one transfer."""
        pairs = [torch.stack([value.detach().float() for value in pair]) for pair in sums.values()]
        for name, pair in zip(sums, torch.stack(pairs).cpu().double(), strict=True):
            self._totals[name] = self._totals[name] + pair

    def stacked(self) -> tuple[list[str], Tensor]:
        """Names in order and [M, 2] totals, the form in which processes exchange them."""
        names = sorted(self._totals)
        return names, torch.stack([self._totals[name] for name in names])

    @staticmethod
    def means(names: list[str], totals: Tensor) -> dict[str, float]:
        """Global means from totals over all processes."""
        return {
            name: float(numerator / denominator) for name, (numerator, denominator) in zip(names, totals, strict=True)
        }


def mean_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """[B] values of examples -> (sum, count)."""
    return values.sum(), torch.tensor(float(values.numel()), device=values.device)
