"""SLiC-HF, Zhao et al. 2023, https://arxiv.org/abs/2305.10425, section 2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import at_least, check_same_shape, positive
from alignlab.errors import Problem
from alignlab.objectives.base import Objective
from alignlab.types import PairLogps, Requires


def slic_loss(chosen: torch.Tensor, rejected: torch.Tensor, *, delta: float, nll_weight: float) -> torch.Tensor:
    """max(0, δ - lp_w + lp_l) - λ lp_w

    chosen, rejected: [B] log-probabilities, nats.
    Returns [B], nats. The hinge's gradient is 0 at its kink. Raises ValueError if shapes differ.
    """
    check_same_shape(chosen, rejected, rank=1)
    return torch.relu(delta - chosen + rejected) - nll_weight * chosen


@dataclass
class SLiC(Objective):
    """Sequence likelihood calibration: a hinge on log-probabilities, and the NLL of the preferred answer.

    delta:      margin from which on the hinge is 0, nats, > 0. A larger margin moves the policy further.
    nll_weight: lambda, weight of the NLL, >= 0.
    """

    delta: float = 1.0
    nll_weight: float = 0.1

    strength: ClassVar[str | None] = "delta"
    requires: ClassVar[Requires] = Requires(data="pairs")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from positive("delta", self.delta, example=1.0)
        yield from at_least("nll_weight", self.nll_weight, 0.0, example=0.1)

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        return slic_loss(
            batch.chosen.logp("sum"), batch.rejected.logp("sum"), delta=self.delta, nll_weight=self.nll_weight
        )
