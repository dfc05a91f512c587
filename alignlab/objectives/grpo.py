"""GRPO, Shao et al. 2024, https://arxiv.org/abs/2402.03300, eq. 3; normalisers of DAPO and Dr. GRPO.

DAPO: Yu et al. 2025, https://arxiv.org/abs/2503.14476, eq. 8. Dr. GRPO: Liu et al. 2025,
https://arxiv.org/abs/2503.20783, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import at_least, check_same_shape, one_of, within
from alignlab.errors import Problem
from alignlab.objectives.advantages import clipped_surrogate, group_normalised, k3, over_tokens, ratio_of
from alignlab.objectives.online import PolicyGradient
from alignlab.types import Requires, RolloutLogps, Rollouts

NORMALISERS = ("answers", "tokens", "constant")


def grpo_loss(
    log_ratio: torch.Tensor,
    advantages: torch.Tensor,
    policy: torch.Tensor,
    reference: torch.Tensor,
    *,
    beta: float,
    low: float,
    high: float,
) -> torch.Tensor:
    """max(-A q, -A clip(q, 1 - c, 1 + c')) + β k3 of every token, A_i = (R_i - mean R) / (std R + 1e-4) of its prompt

    log_ratio: log π - log π_old; policy: log π; reference: log π_ref; all [B, T], nats.
    low, high: c and c'.
    Returns [B, T].
    Raises ValueError if shapes differ.
    """
    check_same_shape(log_ratio, advantages, policy, reference, rank=2)
    surrogate = clipped_surrogate(ratio_of(log_ratio), advantages, low=low, high=high)
    return surrogate + beta * k3(policy, reference) if beta else surrogate


@dataclass(kw_only=True)
class GRPO(PolicyGradient):
    """A policy gradient whose advantages are rewards standardised over the answers to one prompt.

    The loss contains the KL to the reference, estimated by k3.

    beta:        weight of the KL in the loss, >= 0; TRL's default is 0.
    samples:     G, answers per prompt, >= 2.
    clip:        share by which a token's probability may fall before the surrogate becomes flat.
    clip_higher: share by which a token's probability may rise before the surrogate becomes flat; 0 means `clip`
                 (DAPO: 0.28).
    normaliser:  divisor of the sum of an answer's token losses. answers: the answer's number of tokens, as in the
                 paper; tokens: the mean number of tokens per answer of the global batch, which gives a mean over tokens
                 as in TRL's dapo (and its bnpo, over the micro-batch of one process); constant: the largest number of
                 tokens an answer may have, as in Dr. GRPO.
    scale:       whether rewards are divided by their deviation within the prompt. Dr. GRPO does not do this.
    """

    beta: float
    samples: int = 8
    clip: float = 0.2
    clip_higher: float = 0.0
    normaliser: str = "answers"
    scale: bool = True

    strength: ClassVar[str | None] = "beta"
    fewest: ClassVar[int] = 2
    requires: ClassVar[Requires] = Requires(data="rollouts", reference=True, reference_tokens=True, online=True)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from at_least("beta", self.beta, 0.0, example=0.04, hint="weight of the KL in the loss")
        yield from within("clip_higher", self.clip_higher, 0.0, 10.0, example=0.28, hint="0 means clip")
        yield from one_of("normaliser", self.normaliser, NORMALISERS)

    @property
    def clip_above(self) -> float:
        return self.clip_higher or self.clip

    def advantages(self, rollouts: Rollouts, coefficient: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        return over_tokens(group_normalised(rollouts.scores, by_deviation=self.scale), rollouts.mask), None

    def __call__(self, batch: RolloutLogps) -> torch.Tensor:
        answers, mask = batch.answers, batch.answers.mask
        assert answers.reference_tokens is not None
        policy = torch.where(mask, answers.tokens, 0.0).to(batch.advantages)
        loss = grpo_loss(
            batch.log_ratio.to(batch.advantages),
            batch.advantages,
            policy,
            torch.where(mask, answers.reference_tokens, 0.0).to(policy),
            beta=self.beta,
            low=self.clip,
            high=self.clip_above,
        )
        return torch.where(mask, loss, 0.0).sum(dim=1) / self._divisor(batch)

    def metrics(self, batch: RolloutLogps) -> dict[str, torch.Tensor]:
        answers, mask = batch.answers, batch.answers.mask
        assert answers.reference_tokens is not None
        return super().metrics(batch) | {"kl": k3(answers.tokens, answers.reference_tokens)[mask].mean()}

    def _divisor(self, batch: RolloutLogps) -> torch.Tensor | float:
        if self.normaliser == "answers":
            return batch.answers.count
        return batch.answers.batch_mean_count if self.normaliser == "tokens" else batch.longest
