"""AOT (alignment by optimal transport), Melnyk et al. 2024, https://arxiv.org/abs/2406.05882."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import check_same_shape, one_of, within
from alignlab.errors import Problem
from alignlab.objectives.base import ReferencePairs, logsigmoid
from alignlab.types import PairLogps, Requires


def aot_loss(better: torch.Tensor, worse: torch.Tensor, *, beta: float, label_smoothing: float = 0.0) -> torch.Tensor:
    """(1 - ε) ℓ(βΔ) + ε ℓ(-βΔ), Δ = sort(lp_w - lp_l) - sort(lr_w - lr_l) over the batch

    better, worse: [B] samples of the two distributions, nats. The i-th smallest value of one is compared with the i-th
    smallest value of the other.
    Returns [B], nats, in the order of `better`. Raises ValueError if shapes differ.
    """
    check_same_shape(better, worse, rank=1)
    rank = better.detach().argsort(stable=True).argsort(stable=True)
    z = beta * (better - worse.sort().values[rank])
    return -(1 - label_smoothing) * logsigmoid(z) - label_smoothing * logsigmoid(-z)


@dataclass
class AOT(ReferencePairs):
    """Optimizes stochastic dominance over the whole batch, instead of the margin of each pair.

    beta:            strength of the regularization towards the reference, > 0.
    label_smoothing: assumed share of flipped preferences, in [0, 0.5).
    pairing:         paired: the policy's margins are compared with the reference's; unpaired: log-ratios of the
                     preferred answers are compared with those of the dispreferred answers.
    """

    label_smoothing: float = 0.0
    pairing: str = "paired"

    shift_invariant: ClassVar[bool] = True
    requires: ClassVar[Requires] = Requires(data="pairs", reference=True, couples_batch=True)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from within(
            "label_smoothing", self.label_smoothing, 0.0, 0.5, example=0.1, closed=False, hint="share of flipped labels"
        )
        yield from one_of("pairing", self.pairing, ("paired", "unpaired"))

    @property
    def loss_at_reference(self) -> float:
        return math.log(2.0)

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        chosen, rejected = batch.chosen.logp("sum"), batch.rejected.logp("sum")
        chosen_ratio, rejected_ratio = batch.chosen.logratio("sum"), batch.rejected.logratio("sum")
        if self.pairing == "paired":
            better, worse = chosen - rejected, (chosen - chosen_ratio) - (rejected - rejected_ratio)
        else:
            better, worse = chosen_ratio, rejected_ratio
        return aot_loss(better, worse, beta=self.beta, label_smoothing=self.label_smoothing)
