"""WPO (weighted preference optimisation), Zhou et al. 2024, https://arxiv.org/abs/2406.11827, eq. 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from alignlab.checks import check_same_shape, one_of
from alignlab.errors import Problem
from alignlab.objectives.base import FROM_DIALECT
from alignlab.objectives.divergence import DivergencePairs
from alignlab.objectives.dpo import dpo_loss
from alignlab.types import Logps, PairLogps, Requires


def wpo_loss(chosen: torch.Tensor, rejected: torch.Tensor, weight: torch.Tensor, *, beta: float) -> torch.Tensor:
    """w_w w_l ℓ(βh), w = exp(mean_t [log π(y_t|s_t) - log Σ_v π(v|s_t)²])

    chosen, rejected: [B] log-ratios (or f-divergence scores of them), nats.
    weight: [B] w_w w_l, without gradient.
    Returns [B], nats. Raises ValueError if shapes differ.
    """
    check_same_shape(chosen, rejected, weight, rank=1)
    return weight * dpo_loss(chosen, rejected, beta=beta)


@dataclass
class WPO(DivergencePairs):
    """DPO that gives more weight to pairs that the policy is more likely to sample itself.

    beta:             strength of the regularization towards the reference, > 0.
    divergence:       f-divergence of the regularization: reverse_kl, forward_kl, js or alpha.
    divergence_alpha: alpha of divergence=alpha; 1 is the reverse KL.
    cap:              one: a pair's weight is at most 1; none: it has no upper limit.
    dialect:          the source of `cap`: none in the paper and TRL 1.x; one in the authors' code (wpo_repo) and in
                      TRL 0.x.
    """

    cap: str = FROM_DIALECT
    dialect: str = "paper"

    shift_invariant: ClassVar[bool] = True
    requires: ClassVar[Requires] = Requires(data="pairs", reference=True, collision=True)
    dialects: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"cap": "none"},
        "trl1": {"cap": "none"},
        "trl0": {"cap": "one"},
        "wpo_repo": {"cap": "one"},
    }

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from one_of("cap", self.cap, ("one", "none"))

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        weight = torch.exp(_log_weight(batch.chosen) + _log_weight(batch.rejected))
        if self.cap == "one":
            weight = weight.clamp(max=1.0)
        return wpo_loss(*self.scores(batch), weight, beta=self.beta)


def _log_weight(side: Logps) -> torch.Tensor:
    """[B] mean over tokens of log pi(y_t) - log sum_v pi(v)^2. The latter is the log-probability of a collision: of
    sampling the same token twice.
    """
    if side.collision is None:
        raise ValueError("this objective needs log sum_v pi(v)^2 at every token and the batch has none")
    difference = Logps(side.tokens.detach() - side.collision, side.mask)
    return difference.logp("mean")
