"""CPO, Xu et al. 2024, https://arxiv.org/abs/2401.08417, eq. 3 and its NLL term."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch

from alignlab.checks import at_least, check_same_shape, one_of, strength
from alignlab.errors import Problem
from alignlab.objectives.base import FROM_DIALECT, Objective, logsigmoid
from alignlab.types import NllReduction, PairLogps, Requires


def cpo_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, chosen_nll: torch.Tensor, *, beta: float, nll_weight: float
) -> torch.Tensor:
    """ℓ(β (lp_w - lp_l)) - α lp_w

    chosen, rejected: [B] log-probabilities, nats; chosen_nll: [B] NLL of the preferred answer, nats.
    Returns [B], nats. Raises ValueError if shapes differ.
    """
    check_same_shape(chosen, rejected, chosen_nll, rank=1)
    return -logsigmoid(beta * (chosen - rejected)) + nll_weight * chosen_nll


@dataclass
class CPO(Objective):
    """DPO with a uniform reference. The NLL of the preferred answer keeps the policy near the data.

    beta:       scale of the log-probabilities, > 0. A larger beta outweighs the NLL and moves the policy further.
    nll_weight: alpha, weight of the NLL, >= 0.
    nll:        sum: summed over the answer; mean: mean over the answer's tokens; tokens: mean over all preferred
                tokens of the batch.
    dialect:    the source of `nll`: sum in the paper, tokens in TRL.
    """

    beta: float
    nll_weight: float = 1.0
    nll: str = FROM_DIALECT
    dialect: str = "paper"

    strength: ClassVar[str | None] = "beta"
    requires: ClassVar[Requires] = Requires(data="pairs")
    dialects: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"nll": "sum"},
        "trl1": {"nll": "tokens"},
        "trl0": {"nll": "tokens"},
    }

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from strength("beta", self.beta, example=0.1)
        yield from at_least("nll_weight", self.nll_weight, 0.0, example=1.0)
        yield from one_of("nll", self.nll, ("sum", "mean", "tokens"))

    @property
    def reward_scale(self) -> float:
        return self.beta

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        return cpo_loss(
            batch.chosen.logp("sum"),
            batch.rejected.logp("sum"),
            batch.chosen.nll(cast(NllReduction, self.nll)),
            beta=self.beta,
            nll_weight=self.nll_weight,
        )
