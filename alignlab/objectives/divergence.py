"""f-divergences in place of the reverse KL, Wang et al. 2023 (f-DPO), https://arxiv.org/abs/2309.16240.

The loss uses f'(u) of the ratio u = pi/pi_ref. Constants of f' cancel in differences. The alpha-divergence is that of
TRL 1.x: f'(u) = (u^(a - 1) - 1) / (a - 1), which is the reverse KL at a = 1. TRL 0.x's alpha is 1 - a.
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

# Exponents are clamped to this, because in float32 the square or the sum of a larger exp() could become infinite.
_LARGEST_EXPONENT = 40.0


def divergence_score(logratio: torch.Tensor, divergence: str, alpha: float) -> torch.Tensor:
    """f'(exp(r)) of log-ratios r: the score that replaces the log-ratio. [B] -> [B].

    reverse_kl: r
    forward_kl: 1 - exp(-r)
    js:         log 2 + log σ(r)
    alpha:      (exp((α - 1) r) - 1) / (α - 1)

    Exponents are clamped to at most 40; beyond that the gradient is 0.
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
    """([B], [B]): scores of the chosen and of the rejected answers; divided by their tokens if `reduction` is mean."""
    chosen, rejected = (_score(side, divergence, alpha, reduction) for side in (batch.chosen, batch.rejected))
    return chosen, rejected


def _score(logps: Logps, divergence: str, alpha: float, reduction: Reduction) -> torch.Tensor:
    score = divergence_score(logps.logratio("sum"), divergence, alpha)
    return score if reduction == "sum" else score / logps.count


def divergence_problems(divergence: str, alpha: float) -> Iterator[Problem]:
    """Yield a problem if the divergence is unknown, or if alpha is not finite or has no effect."""
    yield from one_of("divergence", divergence, DIVERGENCES)
    if divergence != "alpha" and alpha != DEFAULT_ALPHA:
        text = f"is read with divergence=alpha only, and divergence is {divergence}"
        yield Problem("divergence_alpha", alpha, text, f"divergence_alpha={DEFAULT_ALPHA}")
    elif divergence == "alpha":
        yield from finite("divergence_alpha", alpha, example=DEFAULT_ALPHA)


@dataclass
class DivergencePairs(ReferencePairs):
    """Base of pairwise objectives that use f' of an f-divergence in place of the log-ratio."""

    divergence: str = "reverse_kl"
    divergence_alpha: float = DEFAULT_ALPHA

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from divergence_problems(self.divergence, self.divergence_alpha)

    def scores(self, batch: PairLogps, reduction: Reduction = "sum") -> tuple[torch.Tensor, torch.Tensor]:
        """([B], [B]): scores of the chosen and the rejected answers; divided by their tokens if `reduction` is mean."""
        return pair_scores(batch, self.divergence, self.divergence_alpha, reduction)
