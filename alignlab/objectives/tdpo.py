"""TDPO (token-level DPO), Zeng et al. 2024, https://arxiv.org/abs/2404.11999."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import at_least, check_same_shape
from alignlab.errors import Problem
from alignlab.objectives.base import ReferencePairs, logsigmoid
from alignlab.types import Logps, PairLogps, Requires


def tdpo_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    chosen_kl: torch.Tensor,
    rejected_kl: torch.Tensor,
    *,
    beta: float,
    alpha: float,
) -> torch.Tensor:
    """ℓ(βh - αβ (K_l - K_w)), K = Σ_t KL(π_ref(·|s_t) ‖ π(·|s_t))

    chosen, rejected: [B] log-ratios, nats; chosen_kl, rejected_kl: [B] K of the two answers, nats.
    Returns [B], nats. Raises ValueError if shapes differ.
    """
    check_same_shape(chosen, rejected, chosen_kl, rejected_kl, rank=1)
    return -logsigmoid(beta * (chosen - rejected) - alpha * beta * (rejected_kl - chosen_kl))


@dataclass
class TDPO(ReferencePairs):
    """DPO that also compares how far the policy moved on the two answers: the KL at every token, over the vocabulary.

    beta:          strength of the regularization towards the reference, > 0.
    alpha:         weight of the KL difference, >= 0; 0 is DPO.
    stop_gradient: whether the preferred answer's KL has no gradient (TDPO2). False with alpha 1 is TDPO1.
    """

    alpha: float = 0.5
    stop_gradient: bool = True

    shift_invariant: ClassVar[bool] = True
    requires: ClassVar[Requires] = Requires(data="pairs", reference=True, reference_kl=True)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from at_least("alpha", self.alpha, 0.0, example=0.5, hint="0 is DPO")

    @property
    def loss_at_reference(self) -> float:
        return math.log(2.0)

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        chosen_kl = _kl(batch.chosen)
        return tdpo_loss(
            batch.chosen.logratio("sum"),
            batch.rejected.logratio("sum"),
            chosen_kl.detach() if self.stop_gradient else chosen_kl,
            _kl(batch.rejected),
            beta=self.beta,
            alpha=self.alpha,
        )


def _kl(side: Logps) -> torch.Tensor:
    if side.reference_kl is None:
        raise ValueError("this objective needs the KL from the reference at every token and the batch has none")
    return side.reference_kl
