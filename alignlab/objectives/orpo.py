"""ORPO, Hong et al. 2024, https://arxiv.org/abs/2403.07691, eq. 6 and 7."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, cast

import torch

from alignlab.checks import at_least, check_same_shape, one_of
from alignlab.errors import Problem
from alignlab.objectives.base import Objective, log1mexp, logsigmoid
from alignlab.types import NllReduction, PairLogps, Requires

# Mean log-probabilities are clamped to this: the odds of a probability of 1 are infinite, and their gradient grows as
# 1 / -logp.
LARGEST_LOGP = -1e-6


def log_odds(logp: torch.Tensor) -> torch.Tensor:
    """log P - log(1 - P) for P = exp(logp), with logp clamped to at most -1e-6. [B] -> [B], nats."""
    logp = logp.clamp(max=LARGEST_LOGP)
    return logp - log1mexp(logp)


def orpo_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, chosen_nll: torch.Tensor, *, odds_weight: float
) -> torch.Tensor:
    """-lp_w/n_w + λ ℓ(log odds_w - log odds_l), log odds = log P - log(1 - P), log P = lp/n

    chosen, rejected: [B] log-probabilities per token, nats.
    chosen_nll: [B] NLL of the preferred answer, nats per token.
    Returns [B], nats. Raises ValueError if shapes differ.
    """
    check_same_shape(chosen, rejected, chosen_nll, rank=1)
    return chosen_nll - odds_weight * logsigmoid(log_odds(chosen) - log_odds(rejected))


@dataclass
class ORPO(Objective):
    """SFT on the preferred answer, with a term that raises its odds against the dispreferred answer. No reference.

    odds_weight: lambda, weight of the odds-ratio term, >= 0. 0 is SFT on the preferred answers; a larger weight moves
                 the policy further.
    nll:         mean: mean over the tokens of each answer, then over pairs (the paper); tokens: mean over all preferred
                 tokens of the batch. TRL and the authors' code also count prompt tokens; that is not supported.
    """

    odds_weight: float
    nll: str = "mean"

    strength: ClassVar[str | None] = "odds_weight"
    requires: ClassVar[Requires] = Requires(data="pairs", length="mean")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from at_least("odds_weight", self.odds_weight, 0.0, example=0.1, hint="lambda; 0 is SFT")
        yield from one_of("nll", self.nll, ("mean", "tokens"))

    @property
    def reward_scale(self) -> float:
        return self.odds_weight

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        return orpo_loss(
            batch.chosen.logp("mean"),
            batch.rejected.logp("mean"),
            batch.chosen.nll(cast(NllReduction, self.nll)),
            odds_weight=self.odds_weight,
        )

    def metrics(self, batch: PairLogps) -> dict[str, torch.Tensor]:
        chosen, rejected = batch.chosen.logp("mean"), batch.rejected.logp("mean")
        difference = log_odds(chosen) - log_odds(rejected)
        clamped = ((chosen > LARGEST_LOGP) | (rejected > LARGEST_LOGP)).float()
        return {
            "log_odds_ratio": logsigmoid(difference).mean(),
            "log_odds_chosen": difference.mean(),
            "log_odds_clamped_frac": clamped.mean(),
        }
