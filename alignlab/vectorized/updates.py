"""Clipping and optimizer steps of a vectorized fit: each point with its own numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from alignlab.modules.base import AlignmentModule
from alignlab.vectorized.joint_objective import with_numbers


class PointwiseUpdates:
    """Updates the weights [P, D] of P points by their own optimizer settings.

    moments: name -> [P, D], the optimizer's state.
    """

    def __init__(self, members: Sequence[AlignmentModule], weights: Tensor) -> None:
        self._members = members
        self.moments = {name: torch.zeros_like(weights) for name in members[0].optim_config.moments or ()}
        self._optim = with_numbers([m.optim_config for m in members], lambda numbers: numbers.double()[:, None])
        self._clips = any(m.clip > 0 for m in members)
        self._limit = torch.tensor([m.clip if m.clip > 0 else math.inf for m in members])
        self._rates: list[float] = []
        self._rate: float | Tensor = 0.0

    def apply(self, weights: Tensor, gradient: Tensor, norms: Tensor, step: int) -> list[float]:
        """Clip the gradient [P, D] with 2-norms [P] and update the weights in place; returns the learning rates.

        The weights of a point that has failed may become anything: no row of [P, D] enters another one's.
        """
        optims = [member.optim_config for member in self._members]
        rates = [optim.lr * optim.factor(step, self._members[0].max_steps) for optim in optims]
        if rates != self._rates:  # with a constant schedule they seldom change
            self._rates, self._rate = rates, _column(rates)
        if self._clips:
            scale = (self._limit.to(norms) / (norms + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
            gradient = gradient * scale[:, None]
        weights.copy_(self._optim.update(weights, gradient, self.moments, self._rate, step + 1))
        return rates


def _column(numbers: Sequence[float]) -> float | Tensor:
    """One number if all are the same, else [P, 1] in float64."""
    return numbers[0] if len(set(numbers)) == 1 else torch.tensor(numbers, dtype=torch.float64)[:, None]
