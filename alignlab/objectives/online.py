"""Bases of online objectives: the policy samples the answers during training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from alignlab.checks import at_least, within
from alignlab.errors import Problem
from alignlab.objectives.advantages import ratio_of
from alignlab.objectives.base import Objective
from alignlab.types import Requires, RolloutLogps, Rollouts

# Which model samples the answers: the current policy, or the policy as it was before training.
Author = Literal["policy", "start"]


@dataclass(kw_only=True)
class Online(Objective):
    """Base of all online objectives.

    samples: answers per prompt.
    """

    samples: int = 1

    # Smallest allowed value of `samples`.
    fewest: ClassVar[int] = 1
    author: ClassVar[Author] = "policy"
    # Whether answers are scored: by a reward model, a rule, or the lab's gold reward.
    scored: ClassVar[bool] = True
    # Whether the reference is the policy that sampled the answers, instead of the policy before training.
    moving_reference: ClassVar[bool] = False

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from at_least("samples", self.samples, self.fewest, example=max(4, self.fewest))


@dataclass(kw_only=True)
class PolicyGradient(Online):
    """Base of policy gradients: they raise the probability of tokens with a positive advantage and lower the others'.

    clip: the surrogate becomes flat once the probability of a token (or of a whole answer) has changed by more than
          this share since the answer was sampled.
    """

    clip: float = 0.2

    monotone: ClassVar[bool] = False
    requires: ClassVar[Requires] = Requires(data="rollouts", reference=True, online=True)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from within("clip", self.clip, 0.0, 1.0, example=0.2)

    @property
    def clip_above(self) -> float:
        """Share by which a probability may rise before the surrogate becomes flat; `clip` unless overridden."""
        return self.clip

    @property
    def coefficient(self) -> float:
        """Weight of the KL in the reward before the first update. 0 if the KL is not part of the reward."""
        return 0.0

    def next_coefficient(self, coefficient: float, kl: float, answers: int) -> float:
        """The weight after a batch of `answers` answers, whose KL from the reference was `kl` nats per answer."""
        return coefficient

    @abstractmethod
    def advantages(self, rollouts: Rollouts, coefficient: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(advantages [N, T], returns [N, T] or None). `coefficient` is the weight of the KL in the reward."""

    def log_ratio(self, batch: RolloutLogps) -> torch.Tensor:
        """[B, T] log π - log π_old of tokens, nats. Subclasses that clip whole answers return [B]."""
        return batch.log_ratio

    def metrics(self, batch: RolloutLogps) -> dict[str, torch.Tensor]:
        """Statistics of the probability ratio between the current and the sampling policy, over the batch."""
        mask, far = batch.answers.mask, batch.log_ratio
        tokens, actions = ratio_of(far)[mask], ratio_of(self.log_ratio(batch))
        whole = actions.ndim == 1
        worth = batch.advantages[:, 0] if whole else batch.advantages
        held = actions.clamp(1 - self.clip, 1 + self.clip_above)
        clipped = -worth * held > -worth * actions
        return {
            "policy/approxkl_avg": 0.5 * (far[mask] ** 2).mean(),
            "policy/clipfrac_avg": clipped[... if whole else mask].float().mean(),
            "val/ratio": tokens.mean(),
            "val/token_ratio_var": tokens.var() if len(tokens) > 1 else torch.zeros_like(tokens).sum(),
        }


@dataclass(kw_only=True)
class SequenceGradient(PolicyGradient):
    """Base of policy gradients with a whole answer as one action. The answer's KL is part of its reward.

    beta: weight of the KL in the reward.
    """

    beta: float

    strength: ClassVar[str | None] = "beta"

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from at_least("beta", self.beta, 0.0, example=0.05, hint="weight of the KL in the reward")

    @property
    def coefficient(self) -> float:
        return self.beta

    def rewards(self, rollouts: Rollouts, coefficient: float) -> torch.Tensor:
        """[P, K] score - β (log π - log π_ref) of whole answers; `coefficient` is β."""
        return rollouts.scores - coefficient * rollouts.log_ratio.sum(dim=1).view_as(rollouts.scores)

    def log_ratio(self, batch: RolloutLogps) -> torch.Tensor:
        return batch.log_ratio.sum(dim=1)
