"""Estimators of advantages, and the clipped surrogate loss.

GAE: Schulman et al. 2015, https://arxiv.org/abs/1506.02438, eq. 16. Clipped surrogate: Schulman et al. 2017,
https://arxiv.org/abs/1707.06347, eq. 7. Tensors [N, T] are over answers and their tokens, and 0 off the answers.
Tensors [P, K] are over prompts and the K answers of each.
"""

from __future__ import annotations

import torch

from alignlab.checks import check_same_shape

# exp(x) is replaced by its tangent above this x, because float32 sums of it would soon be infinite.
_FARTHEST = 20.0

# Added to a variance (whitening) or a deviation (groups) before dividing by it, as in the papers' code.
_WHITEN, _GROUP = 1e-8, 1e-4


def token_rewards(log_ratio: torch.Tensor, mask: torch.Tensor, scores: torch.Tensor, kl_coef: float) -> torch.Tensor:
    """[N, T] reward of each token: -β (log π - log π_ref), plus the answer's score at its last token.

    log_ratio: [N, T] log π - log π_ref, nats.
    mask:      bool[N, T], True on answer tokens.
    scores:    [N] score of each answer.
    kl_coef:   β.
    Raises ValueError if `log_ratio` and `mask` differ in shape.
    """
    check_same_shape(log_ratio, mask, rank=2)
    rewards = torch.where(mask, -kl_coef * log_ratio, 0.0)
    last = (mask.sum(dim=1, keepdim=True) - 1).clamp(min=0)
    return rewards.scatter_add(1, last, scores[:, None].to(rewards))


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, *, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(advantages, returns), [N, T] each: A_t = δ_t + γλ A_{t+1} with δ_t = r_t + γ V_{t+1} - V_t; returns are A + V.

    V is 0 after an answer's last token, whether the answer ended or was cut off.
    Raises ValueError if shapes differ.
    """
    check_same_shape(rewards, values, mask, rank=2)
    rewards, values = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    advantage = next_value = torch.zeros_like(rewards[:, 0])
    backwards = []  # advantages from the last token to the first
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = torch.where(mask[:, t], delta + gamma * lam * advantage, 0.0)
        next_value = values[:, t]
        backwards.append(advantage)
    advantages = torch.stack(backwards[::-1], dim=1)
    return advantages, torch.where(mask, advantages + values, 0.0)


def whitened(values: torch.Tensor, mask: torch.Tensor, *, shift_mean: bool = True) -> torch.Tensor:
    """[N, T] values with standard deviation 1 over all answer tokens, and with mean 0 if `shift_mean`, else as it was.

    The deviation divides by the number of tokens (the biased estimate).
    """
    count = mask.sum()
    mean = torch.where(mask, values, 0.0).sum() / count
    variance = torch.where(mask, (values - mean) ** 2, 0.0).sum() / count
    out = (values - mean) * torch.rsqrt(variance + _WHITEN)
    return torch.where(mask, out if shift_mean else out + mean, 0.0)


def leave_one_out(rewards: torch.Tensor) -> torch.Tensor:
    """[P, K] R_i minus the mean of the other K - 1 rewards of the prompt."""
    k = rewards.shape[1]
    return (rewards - rewards.mean(dim=1, keepdim=True)) * k / (k - 1)


def group_normalised(rewards: torch.Tensor, *, by_deviation: bool = True) -> torch.Tensor:
    """[P, K] (R_i - mean) / (std + 1e-4) over the K rewards of the prompt. Equal rewards give 0.

    The deviation divides by K - 1. Without `by_deviation` the result is R_i - mean.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred / (rewards.std(dim=1, keepdim=True) + _GROUP) if by_deviation else centred


def over_tokens(advantages: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[P, K] advantages of whole answers -> [N, T]: each token of an answer gets the answer's advantage."""
    return torch.where(mask, advantages.reshape(-1, 1), 0.0).to(advantages)


def ratio_of(log_ratio: torch.Tensor) -> torch.Tensor:
    """exp of log-ratios. Above 20 it continues as the tangent at 20."""
    near = log_ratio.clamp(max=_FARTHEST)
    return near.exp() * (1 + (log_ratio - near))


def clipped_surrogate(ratio: torch.Tensor, advantages: torch.Tensor, *, low: float, high: float) -> torch.Tensor:
    """max(-A q, -A clip(q, 1 - low, 1 + high)), a loss to minimise. All tensors have one shape."""
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high))


def clipped_value_loss(values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, *, clip: float) -> torch.Tensor:
    """½ max((V - R)², (clip(V, V_old ± c) - R)²), a loss to minimise. All tensors have one shape."""
    near = torch.minimum(torch.maximum(values, old - clip), old + clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)


def k3(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """exp(x) - x - 1 with x = log π_ref - log π, in nats and >= 0. Above x = 20 the exp continues as its tangent.

    policy, reference: log π and log π_ref of tokens, of one shape.
    The mean over tokens sampled from the policy is KL(π || π_ref) (http://joschu.net/blog/kl-approx.html). The mean
    gradient, with the tokens held fixed, is that of the other direction, KL(π_ref || π), which has the same minimum.
    """
    x = reference - policy
    return ratio_of(x) - x - 1
