"""What answers were worth beyond what was expected: estimators of advantages, and the surrogate that is made of them.

GAE: Schulman et al. 2015, https://arxiv.org/abs/1506.02438, eq. 16. Clipped surrogate: Schulman et al. 2017,
https://arxiv.org/abs/1707.06347, eq. 7. All tables are [N, T] over answers and their tokens, 0 off the answers.
"""

from __future__ import annotations

import torch

from alignlab.checks import check_same_shape

# Where exp goes on as a straight line: beyond it float32 sums would soon be infinite.
_FARTHEST = 20.0

# Added to a spread that is divided by, as in the code that papers were made with.
_WHITEN, _GROUP = 1e-8, 1e-4


def token_rewards(log_ratio: torch.Tensor, mask: torch.Tensor, scores: torch.Tensor, kl_coef: float) -> torch.Tensor:
    """[N, T] -β (log π - log π_ref) of every token, and the score on top at the answer's last one.

    log_ratio: [N, T], nats; scores: [N].
    """
    check_same_shape(log_ratio, mask, rank=2)
    rewards = torch.where(mask, -kl_coef * log_ratio, 0.0)
    last = (mask.sum(dim=1, keepdim=True) - 1).clamp(min=0)
    return rewards.scatter_add(1, last, scores[:, None].to(rewards))


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, *, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(advantages, returns) [N, T]: A_t = δ_t + γλ A_{t+1} with δ_t = r_t + γ V_{t+1} - V_t; returns are A + V.

    After an answer's last token nothing is expected: V is 0 there, whether it ended or was cut off.
    """
    check_same_shape(rewards, values, mask, rank=2)
    rewards, values = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    advantage = next_value = torch.zeros_like(rewards[:, 0])
    found = []
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = torch.where(mask[:, t], delta + gamma * lam * advantage, 0.0)
        next_value = values[:, t]
        found.append(advantage)
    advantages = torch.stack(found[::-1], dim=1)
    return advantages, torch.where(mask, advantages + values, 0.0)


def whitened(values: torch.Tensor, mask: torch.Tensor, *, shift_mean: bool = True) -> torch.Tensor:
    """[N, T] divided by their standard deviation over all tokens (biased); with mean 0 unless `shift_mean` is off."""
    count = mask.sum()
    mean = torch.where(mask, values, 0.0).sum() / count
    variance = torch.where(mask, (values - mean) ** 2, 0.0).sum() / count
    out = (values - mean) * torch.rsqrt(variance + _WHITEN)
    return torch.where(mask, out if shift_mean else out + mean, 0.0)


def leave_one_out(rewards: torch.Tensor) -> torch.Tensor:
    """[P, K] R_i - mean of the other K - 1 rewards of the prompt."""
    k = rewards.shape[1]
    return (rewards - rewards.mean(dim=1, keepdim=True)) * k / (k - 1)


def group_normalised(rewards: torch.Tensor, *, by_deviation: bool = True) -> torch.Tensor:
    """[P, K] (R_i - mean) / (std + 1e-4) over the K rewards of the prompt, std with K - 1; equal rewards give 0."""
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred / (rewards.std(dim=1, keepdim=True) + _GROUP) if by_deviation else centred


def over_tokens(advantages: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[P, K] of whole answers -> [N, T], the same at every token of an answer."""
    return torch.where(mask, advantages.reshape(-1, 1), 0.0).to(advantages)


def ratio_of(log_ratio: torch.Tensor) -> torch.Tensor:
    """exp of log-ratios; straight beyond 20."""
    near = log_ratio.clamp(max=_FARTHEST)
    return near.exp() * (1 + (log_ratio - near))


def clipped_surrogate(ratio: torch.Tensor, advantages: torch.Tensor, *, low: float, high: float) -> torch.Tensor:
    """max(-A q, -A clip(q, 1 - low, 1 + high)), to be minimised."""
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high))


def clipped_value_loss(values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, *, clip: float) -> torch.Tensor:
    """½ max((V - R)², (clip(V, V_old ± c) - R)²)"""
    near = torch.minimum(torch.maximum(values, old - clip), old + clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)


def k3(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """exp(x) - x - 1 with x = log π_ref - log π, never below 0; nats. Straight beyond x = 20.

    Its mean over the policy's own tokens is KL(π || π_ref) (http://joschu.net/blog/kl-approx.html); its gradient at
    given tokens is on average that of the other direction, KL(π_ref || π), which has the same minimum.
    """
    x = reference - policy
    return ratio_of(x) - x - 1
