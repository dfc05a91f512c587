"""DiscoPOP (log-ratio modulated loss), Lu et al. 2024, https://arxiv.org/abs/2406.08414, eq. 5."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import check_same_shape
from alignlab.errors import Problem
from alignlab.objectives.base import logsigmoid
from alignlab.objectives.divergence import DivergencePairs
from alignlab.types import PairLogps


def discopop_loss(chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float, tau: float) -> torch.Tensor:
    """(1 - m) ℓ(βh) + m exp(-βh), m = σ(βh/τ)

    chosen, rejected: [B] log-ratios (or f-divergence scores of them), nats.
    Returns [B]. Raises ValueError if shapes differ.
    """
    check_same_shape(chosen, rejected, rank=1)
    z = beta * (chosen - rejected)
    # m exp(-z) is computed as one exponential, because for z far below 0 its factors are 0 and infinite
    return torch.sigmoid(-z / tau) * -logsigmoid(z) + torch.exp(logsigmoid(z / tau) - z)


@dataclass
class DiscoPOP(DivergencePairs):
    """A loss that a language model found: logistic for wrongly ordered pairs, exponential for correctly ordered ones.

    It is not convex. At the start of training its slope in βh is (1 - ln 2) / (4τ) - 3/4, which is above 0 for
    τ < 0.102. At the default 0.05 most pairs are therefore first pushed the wrong way, into a local minimum near
    βh = -0.15.

    beta:             strength of the regularization towards the reference, > 0.
    divergence:       f-divergence of the regularization: reverse_kl, forward_kl, js or alpha.
    divergence_alpha: alpha of divergence=alpha; 1 is the reverse KL.
    tau:              width of the transition between the two losses, in (0, 1).
    """

    tau: float = 0.05

    monotone: ClassVar[bool] = False
    shift_invariant: ClassVar[bool] = True

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if not 0 < self.tau < 1:
            yield Problem("tau", self.tau, "must lie in (0, 1): from 1 on wrong pairs cost exp(-βh)", "tau=0.05")

    @property
    def loss_at_reference(self) -> float:
        return (math.log(2.0) + 1) / 2

    def data_warnings(self, counts: Mapping[str, int]) -> Iterator[str]:
        slope = (1 - math.log(2.0)) / (4 * self.tau) - 0.75
        if slope > 0:
            yield f"DiscoPOP lowers margins near 0: its slope in the margin is {slope:+.2f} there (because tau < 0.102)"

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        return discopop_loss(*self.scores(batch), beta=self.beta, tau=self.tau)
