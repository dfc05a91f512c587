"""PPO for language models, Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, eq. 2, with the N+ details.

Clipped surrogate: Schulman et al. 2017, https://arxiv.org/abs/1707.06347, eq. 7. The N+ implementation details: Huang
et al. 2024, https://arxiv.org/abs/2403.17031. Adaptive KL: Ziegler et al. 2019, https://arxiv.org/abs/1909.08593,
section 2.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import at_least, check_same_shape, one_of, positive, within
from alignlab.errors import Problem
from alignlab.objectives.advantages import (
    clipped_surrogate,
    clipped_value_loss,
    gae,
    ratio_of,
    token_rewards,
    whitened,
)
from alignlab.objectives.online import PolicyGradient
from alignlab.types import Requires, RolloutLogps, Rollouts

CRITICS = ("head", "network")

# The relative error of the KL is clipped to this, up and down, when the KL's weight is updated.
_ERROR_CLIP = 0.2


def ppo_loss(log_ratio: torch.Tensor, advantages: torch.Tensor, *, clip: float) -> torch.Tensor:
    """max(-A q, -A clip(q, 1 ± c)) of every token, q = π(y_t)/π_old(y_t), A by GAE from score - β Σ log π_old/π_ref

    log_ratio: [B, T] log q, nats; advantages: [B, T]; clip: c.
    Returns [B, T].
    Raises ValueError if shapes differ.
    """
    check_same_shape(log_ratio, advantages, rank=2)
    return clipped_surrogate(ratio_of(log_ratio), advantages, low=clip, high=clip)


@dataclass(kw_only=True)
class PPO(PolicyGradient):
    """A policy gradient with tokens as actions. A critic estimates the value before each token.

    kl_coef:        β, weight of each token's KL (k1) in the reward, > 0. With a `target_kl` it is the first value of β.
    target_kl:      the KL that β is adapted to reach, nats per answer; 0 keeps β constant.
    kl_horizon:     number of answers over which an error of 20 % changes β by 20 %; a smaller horizon adapts faster.
    gamma:          discount per token; 1 is no discount.
    lam:            lambda of GAE; at 1 an advantage is the return minus the value.
    clip:           share by which a token's probability may change before the surrogate becomes flat.
    value_clip:     how far a value may move from the critic's value when the answer was sampled; 0 sets no limit.
    value_weight:   weight of the critic's loss.
    critic:         head: a linear layer on the policy's last hidden states; network: a model of its own. The network
                    starts from the reward model if that has the policy's architecture, else from the policy before
                    training with a new head.
    whiten_rewards: whether token rewards are divided by their deviation over the batch.
    entropy_bonus:  weight of the mean entropy of a token's prediction.
    ptx:            gamma of PPO-ptx: weight of the NLL of the data's own answers, nats per token of each answer.
                    InstructGPT used 27.8, on pretraining text.
    samples:        answers per prompt.
    """

    kl_coef: float
    target_kl: float = 0.0
    kl_horizon: float = 10_000.0
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    value_clip: float = 0.2
    value_weight: float = 0.1
    critic: str = "head"
    whiten_rewards: bool = False
    entropy_bonus: float = 0.0
    ptx: float = 0.0
    samples: int = 1

    strength: ClassVar[str | None] = "kl_coef"

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from positive("kl_coef", self.kl_coef, example=0.05, hint="weight of the KL in the reward")
        yield from at_least("target_kl", self.target_kl, 0.0, example=6.0, hint="0 keeps kl_coef constant")
        yield from positive("kl_horizon", self.kl_horizon, example=10_000)
        yield from within("gamma", self.gamma, 0.0, 1.0, example=1.0)
        yield from within("lam", self.lam, 0.0, 1.0, example=0.95)
        yield from at_least("value_clip", self.value_clip, 0.0, example=0.2, hint="0 sets no limit")
        yield from at_least("value_weight", self.value_weight, 0.0, example=0.1)
        yield from one_of("critic", self.critic, CRITICS)
        yield from at_least("entropy_bonus", self.entropy_bonus, 0.0, example=0.01)
        yield from at_least("ptx", self.ptx, 0.0, example=27.8)

    @property
    def requires(self) -> Requires:  # type: ignore[override]
        return Requires(
            data="rollouts",
            reference=True,
            online=True,
            critic=self.critic,
            entropy=self.entropy_bonus > 0,
            demonstrations=self.ptx > 0,
        )

    @property
    def coefficient(self) -> float:
        return self.kl_coef

    def next_coefficient(self, coefficient: float, kl: float, answers: int) -> float:
        """β (1 + e n / horizon) after n answers; e is the KL's relative error, clipped to ±20 %."""
        if not self.target_kl:
            return coefficient
        error = min(max(kl / self.target_kl - 1, -_ERROR_CLIP), _ERROR_CLIP)
        return coefficient * (1 + error * answers / self.kl_horizon)

    def advantages(self, rollouts: Rollouts, coefficient: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(advantages, returns), [N, T] each. Only the advantages are whitened, over all tokens of the rollouts."""
        assert rollouts.values is not None
        mask = rollouts.mask
        rewards = token_rewards(rollouts.log_ratio, mask, rollouts.scores.flatten(), coefficient)
        if self.whiten_rewards:
            rewards = whitened(rewards, mask, shift_mean=False)
        advantages, returns = gae(rewards, rollouts.values, mask, gamma=self.gamma, lam=self.lam)
        return whitened(advantages, mask), returns

    def __call__(self, batch: RolloutLogps) -> torch.Tensor:
        mask, count = batch.answers.mask, batch.answers.batch_mean_count
        ratio = batch.log_ratio.to(batch.advantages)
        tokens = ppo_loss(ratio, batch.advantages, clip=self.clip) + self.value_weight * self._value_loss(batch)
        if batch.entropy is not None:
            tokens = tokens - self.entropy_bonus * torch.where(mask, batch.entropy, 0.0)
        loss = torch.where(mask, tokens, 0.0).sum(dim=1) / count
        if batch.demonstration is not None:
            loss = loss + self.ptx * batch.demonstration.nll("mean")
        return loss

    def metrics(self, batch: RolloutLogps) -> dict[str, torch.Tensor]:
        mask = batch.answers.mask
        values, _, returned = self._critic(batch)
        policy = ppo_loss(batch.log_ratio.to(batch.advantages), batch.advantages, clip=self.clip)[mask]
        loss = self._value_loss(batch)
        held = loss > 0.5 * (values - returned) ** 2  # clipping never lowers the loss
        error, returns = (returned - values)[mask], returned[mask]
        found = super().metrics(batch) | {
            "loss/policy_avg": policy.mean(),
            "loss/value_avg": loss[mask].mean(),
            "val/clipfrac_avg": held[mask].float().mean(),
        }
        if len(returns) > 1 and returns.var() > 0:
            found["val/explained_variance"] = 1 - error.var() / returns.var()
        if batch.demonstration is not None:
            found["loss/ptx"] = batch.demonstration.nll("mean").mean()
        return found

    def _value_loss(self, batch: RolloutLogps) -> torch.Tensor:
        """[B, T] loss of the critic, before its weight."""
        values, old, returns = self._critic(batch)
        if not self.value_clip:
            return 0.5 * (values - returns) ** 2
        return clipped_value_loss(values, old, returns, clip=self.value_clip)

    @staticmethod
    def _critic(batch: RolloutLogps) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(values, old values, returns), [B, T] each. Raises ValueError if the batch has none."""
        if batch.values is None or batch.old_values is None or batch.returns is None:
            raise ValueError("this objective needs a critic's values and the batch has none")
        return batch.values, batch.old_values, batch.returns
