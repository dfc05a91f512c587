"""KL between policy and reference from samples, with standard errors; the estimator is in the name.

k1, k2, k3: Schulman 2020, http://joschu.net/blog/kl-approx.html. Nats per answer, or per token where that is said. An
answer that was cut off counts as it stands: what is estimated is the KL of answers cut off there.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from alignlab.statistics.intervals import Array, Estimate, mean_interval


def kl_estimates(
    policy: Sequence[ArrayLike],
    reference: Sequence[ArrayLike],
    prompts: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """KL(policy || reference) from the policy's own samples.

    policy, reference: of each answer the log-probabilities of its tokens, [T_i] nats, at temperature 1.
    prompts:           name of each answer's prompt; errors are over prompts.

    sequence_k1: mean log-ratio x of whole answers; unbiased, and may come out negative.
    sequence_k2: mean x^2 / 2; biased, small in spread.
    sequence_k3: mean exp(-x) - 1 + x; unbiased and never negative. Far from the reference its spread is hopeless and
                 its interval too short: what it misses are answers that the policy hardly ever gives any more.
    token_k3:    the same of every token's log-ratio, summed over the answer: unbiased for the same KL, of little spread
                 near the reference, and with the same weakness far from it.
    per_token:   sequence_k1 divided by the mean number of tokens, nats per token.
    """
    ratios = [np.asarray(p, dtype=np.float64) - np.asarray(q, dtype=np.float64) for p, q in _same(policy, reference)]
    x = np.array([ratio.sum() for ratio in ratios])
    with np.errstate(over="ignore"):  # infinite is what k3 then is
        found = {
            "sequence_k1": mean_interval(x, prompts, level=level),
            "sequence_k2": mean_interval(x**2 / 2, prompts, level=level),
            "sequence_k3": mean_interval(np.expm1(-x) + x, prompts, level=level),
            "token_k3": mean_interval([(np.expm1(-r) + r).sum() for r in ratios], prompts, level=level),
        }
    return found | {"per_token": per_token(x, np.array([len(ratio) for ratio in ratios]), prompts, level=level)}


def forward_kl(
    policy: Sequence[ArrayLike],
    reference: Sequence[ArrayLike],
    prompts: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
) -> Estimate:
    """KL(reference || policy) from the reference's samples: mean log-ratio of whole answers, nats per answer.

    Over the answers of a data set it is the same up to what does not depend on the policy (forward KL on
    data): by how much the policy finds them less likely than the reference does.
    """
    x = np.array([np.sum(q) - np.sum(p) for p, q in _same(policy, reference)])
    return mean_interval(x, prompts, level=level)


def per_token(
    sums: Array, tokens: Array, prompts: Sequence[Hashable] | None = None, *, level: float = 0.95
) -> Estimate:
    """Ratio of two sums over answers with the error of a ratio (the mean of sum - ratio x tokens, by prompt)."""
    if len(sums) == 0:
        return mean_interval(sums, level=level)
    ratio = float(sums.sum() / tokens.sum())
    residual = mean_interval(sums - ratio * tokens, prompts, level=level)
    scale = len(tokens) / float(tokens.sum())
    half, error = (residual.high - residual.value) * scale, residual.standard_error * scale
    return Estimate(ratio, error, ratio - half, ratio + half, residual.n)


def _same(policy: Sequence[ArrayLike], reference: Sequence[ArrayLike]) -> list[tuple[Array, Array]]:
    """Pairs of arrays of one length. Raises ValueError where they are not."""
    pairs = [
        (np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64))
        for p, q in zip(policy, reference, strict=True)
    ]
    wrong = [i for i, (p, q) in enumerate(pairs) if p.shape != q.shape or p.ndim != 1]
    if wrong:
        raise ValueError(f"answers {wrong[:5]} have other numbers of tokens under the policy than under the reference")
    return pairs
