"""Unlikelihood, Welleck et al. 2020, https://arxiv.org/abs/1908.04319, eq. 4 (the term for one negative token).

On pairs it is a baseline of DPO, Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, section 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import at_least, check_same_shape
from alignlab.errors import Problem
from alignlab.objectives.base import Objective, log1mexp
from alignlab.types import PairLogps, Requires

# Log-probabilities of tokens are clamped to this: the loss of a token with probability 1 is infinite, and its gradient
# grows as 1 / -logp.
LARGEST_LOGP = -1e-6


def unlikelihood_loss(
    chosen: torch.Tensor, rejected_tokens: torch.Tensor, rejected_mask: torch.Tensor, *, alpha: float
) -> torch.Tensor:
    """-lp_w - α Σ_t log(1 - p_l,t), p_l,t = the probability of token t of the dispreferred answer

    chosen:          [B] summed log-probabilities, nats.
    rejected_tokens: [B, T] log-probabilities of tokens, nats; rejected_mask: bool[B, T].
    Returns [B], nats; not below 0. Raises ValueError if shapes differ.
    """
    check_same_shape(rejected_tokens, rejected_mask, rank=2)
    single = torch.promote_types(rejected_tokens.dtype, torch.float32)
    tokens = rejected_tokens.masked_fill(~rejected_mask, -1.0).to(single)
    unlikely = log1mexp(tokens.clamp(max=LARGEST_LOGP)).masked_fill(~rejected_mask, 0.0).sum(dim=1)
    check_same_shape(chosen, unlikely, rank=1)
    return -chosen - alpha * unlikely


@dataclass
class Unlikelihood(Objective):
    """SFT on the preferred answer, and unlikelihood training on the tokens of the dispreferred one. No reference.

    Unlike -lp_w + α lp_l, the loss is bounded below: a token that is unlikely already has hardly any gradient.

    alpha: weight of the dispreferred answer, >= 0. 0 is SFT on the preferred answers; a larger weight moves the policy
           further from the dispreferred ones.
    """

    alpha: float

    strength: ClassVar[str | None] = "alpha"
    requires: ClassVar[Requires] = Requires(data="pairs")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from at_least("alpha", self.alpha, 0.0, example=0.1, hint="0 is SFT")

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        return unlikelihood_loss(batch.chosen.logp("sum"), batch.rejected.tokens, batch.rejected.mask, alpha=self.alpha)
