"""KL between policy and reference, estimated from samples, with standard errors. Names contain the estimator.

k1, k2, k3: Schulman 2020, http://joschu.net/blog/kl-approx.html. The unit is nats per answer, or nats per token if the
name says so. Answers that were cut off are used as they are: the estimate is the KL of answers cut off at that length.
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
    all_prompts: bool = False,
) -> dict[str, Estimate]:
    """KL(policy || reference), estimated from the policy's own samples.

    policy, reference: for each answer, the log-probabilities [T_i] of its tokens, nats, at temperature 1.
    prompts:           name of each answer's prompt; standard errors are over prompts. None: every answer has its own.
    all_prompts:       the prompts are all that there are; standard errors are over the answers to each.

    sequence_k1: mean log-ratio x of whole answers; unbiased, can be negative, and so can the ends of its interval.
    sequence_k2: mean x^2 / 2; biased, with a small variance.
    sequence_k3: mean exp(-x) - 1 + x; unbiased, never negative. Far from the reference its variance is very large and
                 its interval too short, because it depends on answers that the policy hardly ever samples.
    token_k3:    exp(-x) - 1 + x of every token's log-ratio x, summed over the answer; unbiased for the same KL. Its
                 variance is small near the reference; far from it, it has the same weakness as sequence_k3.
    per_token:   sequence_k1 divided by the mean number of tokens, nats per token.

    Raises ValueError if an answer has different numbers of tokens in `policy` and `reference`.
    """
    ratios = [np.asarray(p, dtype=np.float64) - np.asarray(q, dtype=np.float64) for p, q in _same(policy, reference)]
    x = np.array([ratio.sum() for ratio in ratios])
    with np.errstate(over="ignore"):  # k3 is infinite then
        estimates = {
            "sequence_k1": mean_interval(x, prompts, level=level, all_clusters=all_prompts),
            **{
                name: mean_interval(never_negative, prompts, level=level, all_clusters=all_prompts, least=0.0)
                for name, never_negative in {
                    "sequence_k2": x**2 / 2,
                    "sequence_k3": np.expm1(-x) + x,
                    "token_k3": np.array([(np.expm1(-r) + r).sum() for r in ratios]),
                }.items()
            },
        }
    return estimates | {
        "per_token": per_token(
            x, np.array([len(ratio) for ratio in ratios]), prompts, level=level, all_prompts=all_prompts
        )
    }


def forward_kl(
    policy: Sequence[ArrayLike],
    reference: Sequence[ArrayLike],
    prompts: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    all_prompts: bool = False,
) -> Estimate:
    """KL(reference || policy) from the reference's samples: the mean log-ratio of whole answers, nats per answer.

    The arguments are as in `kl_estimates`, but for answers sampled from the reference. With the answers of a data set,
    the result is the forward KL on data, up to a constant that does not depend on the policy: by how much their
    log-probability is lower under the policy than under the reference.
    """
    x = np.array([np.sum(q) - np.sum(p) for p, q in _same(policy, reference)])
    return mean_interval(x, prompts, level=level, all_clusters=all_prompts)


def per_token(
    sums: Array,
    tokens: Array,
    prompts: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    all_prompts: bool = False,
) -> Estimate:
    """Ratio of the total of `sums` [R] to the total of `tokens` [R], with the standard error of a ratio.

    The error is that of the mean of sum - ratio x tokens over answers, clustered by prompt.
    """
    if len(sums) == 0:
        return mean_interval(sums, level=level)
    ratio = float(sums.sum() / tokens.sum())
    residual = mean_interval(sums - ratio * tokens, prompts, level=level, all_clusters=all_prompts)
    scale = len(tokens) / float(tokens.sum())
    half, error = (residual.high - residual.value) * scale, residual.standard_error * scale
    return Estimate(ratio, error, ratio - half, ratio + half, residual.n)


def _same(policy: Sequence[ArrayLike], reference: Sequence[ArrayLike]) -> list[tuple[Array, Array]]:
    """(policy, reference) arrays of each answer, [T_i] both. Raises ValueError if an answer's lengths differ."""
    pairs = [
        (np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64))
        for p, q in zip(policy, reference, strict=True)
    ]
    wrong = [i for i, (p, q) in enumerate(pairs) if p.shape != q.shape or p.ndim != 1]
    if wrong:
        raise ValueError(f"answers {wrong[:5]} have different numbers of tokens under the policy and the reference")
    return pairs
