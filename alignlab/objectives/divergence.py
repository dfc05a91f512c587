"""f-divergences in place of the reverse KL, Wang et al. 2023 (f-DPO), https://arxiv.org/abs/2309.16240.

The alpha-divergence is that of TRL 1.x: f'(u) = (u^(a - 1) - 1) / (a - 1), the reverse KL at a = 1; TRL 0.x writes it
with alpha = 1 - a. What enters the loss is f'(u) of the ratio u = pi/pi_ref; its constants cancel in differences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from alignlab.checks import finite, one_of
from alignlab.errors import Problem
from alignlab.objectives.base import ReferencePairs, logsigmoid
from alignlab.types import Logps, PairLogps, Reduction

DIVERGENCES = ("reverse_kl", "forward_kl", "js", "alpha")
DEFAULT_ALPHA = 0.5

# exp() of more than this would leave no room in float32 for the losses that square or sum it.
_LARGEST_EXPONENT = 40.0


def divergence_score(logratio: torch.Tensor, divergence: str, alpha: float) -> torch.Tensor:
    """r, 1 - exp(-r), log 2 + log σ(r) or (exp((α - 1) r) - 1) / (α - 1): f' of the ratio exp(r).

    [B] -> [B]; exponents are held at 40, where the gradient ends.
    """
    if divergence == "forward_kl":
        return 1 - torch.exp((-logratio).clamp(max=_LARGEST_EXPONENT))
    if divergence == "js":
        return logsigmoid(logratio) + 0.6931471805599453
    if divergence == "alpha" and alpha != 1.0:
        return torch.expm1(((alpha - 1) * logratio).clamp(max=_LARGEST_EXPONENT)) / (alpha - 1)
    return logratio  # reverse KL, and the limit of alpha -> 1


def pair_scores(
    batch: PairLogps, divergence: str, alpha: float, reduction: Reduction = "sum"
) -> tuple[torch.Tensor, torch.Tensor]:
    """[B], [B] scores of the chosen and of the rejected answers; per token of each where asked."""
    chosen, rejected = (_score(side, divergence, alpha, reduction) for side in (batch.chosen, batch.rejected))
    return chosen, rejected


def _score(logps: Logps, divergence: str, alpha: float, reduction: Reduction) -> torch.Tensor:
    score = divergence_score(logps.logratio("sum"), divergence, alpha)
    return score if reduction == "sum" else score / logps.count


def divergence_problems(divergence: str, alpha: float) -> Iterator[Problem]:
    """A divergence that is not there, or an alpha that nothing would read."""
    yield from one_of("divergence", divergence, DIVERGENCES)
    if divergence != "alpha" and alpha != DEFAULT_ALPHA:
        text = f"is read with divergence=alpha only, and divergence is {divergence}"
        yield Problem("divergence_alpha", alpha, text, f"divergence_alpha={DEFAULT_ALPHA}")
    elif divergence == "alpha":
        yield from finite("divergence_alpha", alpha, example=DEFAULT_ALPHA)


@dataclass
class DivergencePairs(ReferencePairs):
    """Base of pairwise objectives into which the log-ratio enters through the derivative of an f-divergence."""

    divergence: str = "reverse_kl"
    divergence_alpha: float = DEFAULT_ALPHA

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from divergence_problems(self.divergence, self.divergence_alpha)

    def scores(self, batch: PairLogps, reduction: Reduction = "sum") -> tuple[torch.Tensor, torch.Tensor]:
        """[B], [B] scores of the chosen and of the rejected answers; per token of each where asked."""
        return pair_scores(batch, self.divergence, self.divergence_alpha, reduction)
