"""DPO with an NLL term (iterative RPO), Pang et al. 2024, https://arxiv.org/abs/2404.19733v3, eq. 1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch

from alignlab.checks import at_least, check_same_shape, one_of
from alignlab.errors import Problem
from alignlab.objectives.base import FROM_DIALECT, logsigmoid
from alignlab.objectives.divergence import DivergencePairs
from alignlab.types import NllReduction, PairLogps


def rpo_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, chosen_nll: torch.Tensor, *, beta: float, nll_weight: float
) -> torch.Tensor:
    """ℓ(βh) - α lp_w/n_w

    chosen, rejected: [B] log-ratios (or f-divergence scores of them), nats.
    chosen_nll: [B] negative log-probability of the preferred answer, nats per token.
    Returns [B], nats. Raises ValueError if shapes differ.
    """
    check_same_shape(chosen, rejected, chosen_nll, rank=1)
    return -logsigmoid(beta * (chosen - rejected)) + nll_weight * chosen_nll


@dataclass
class RPO(DivergencePairs):
    """DPO that also imitates the preferred answer.

    beta:             strength of the regularization towards the reference, > 0.
    divergence:       f-divergence of the regularization: reverse_kl, forward_kl, js or alpha.
    divergence_alpha: alpha of divergence=alpha; 1 is the reverse KL.
    nll_weight:       alpha, weight of the NLL, >= 0; 0 is DPO.
    nll:              mean: mean over the tokens of each answer, then over pairs; tokens: mean over all preferred tokens
                      of the batch.
    dialect:          the source of `nll`: mean in the paper, OpenRLHF and Llama-3's recipe; tokens in TRL.
    """

    nll_weight: float = 1.0
    nll: str = FROM_DIALECT
    dialect: str = "paper"

    shift_invariant: ClassVar[bool] = True
    dialects: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"nll": "mean"},
        "openrlhf": {"nll": "mean"},
        "trl1": {"nll": "tokens"},
        "trl0": {"nll": "tokens"},
    }

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from at_least("nll_weight", self.nll_weight, 0.0, example=1.0, hint="0 is DPO")
        yield from one_of("nll", self.nll, ("mean", "tokens"))

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        return rpo_loss(
            *self.scores(batch),
            batch.chosen.nll(cast(NllReduction, self.nll)),
            beta=self.beta,
            nll_weight=self.nll_weight,
        )
