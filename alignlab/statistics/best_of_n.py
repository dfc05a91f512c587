"""Best-of-n curves for all n <= N from the scores of N samples per prompt."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln

from alignlab.statistics.intervals import Array, Estimate, mean_interval


def best_of_n(
    proxy: ArrayLike,
    n: Sequence[int],
    *,
    gold: ArrayLike | None = None,
    prompts: Sequence[Hashable] | None = None,
    level: float = 0.95,
) -> dict[int, Estimate]:
    """n -> mean score of the best of n samples, with its interval over prompts.

    proxy:   [X, N] scores that choose the best sample: N samples for each of X prompts.
    n:       how many samples to choose from; several values.
    gold:    [X, N] scores that are reported; None reports `proxy`.
    prompts: [X] name of each row's prompt, if several rows (turns of a question) share one; None if no rows do.
    level:   of the intervals.

    The estimate is the mean over all subsets of n of the N samples, which is unbiased: the sample of rank i is the best
    of C(i - 1, n - 1) of the C(N, n) subsets (Nakano et al. 2021, https://arxiv.org/abs/2112.09332). Samples with equal
    `proxy` scores share their subsets equally.

    Raises ValueError if the scores are not [X, N], if their shapes differ, or if an n is not in [1, N].
    """
    chooses = np.asarray(proxy, dtype=np.float64)
    reported = chooses if gold is None else np.asarray(gold, dtype=np.float64)
    if chooses.ndim != 2 or chooses.shape != reported.shape:
        raise ValueError(f"scores must be [prompts, samples]: {chooses.shape} and {reported.shape}")
    samples = chooses.shape[1]
    if not all(1 <= k <= samples for k in n):
        raise ValueError(
            f"n must lie in [1, {samples}], where {samples} is the number of samples per prompt; got {list(n)}"
        )
    by_rank = np.stack([_by_rank(row, value) for row, value in zip(chooses, reported, strict=True)])
    return {k: mean_interval(by_rank @ _rank_weights(samples, k), prompts, level=level) for k in n}


def best_of_n_kl(n: int) -> float:
    """log n - (n - 1) / n, nats: an upper bound of the KL between best-of-n and the policy that it samples from.

    It is exact without ties and in the limit of answers of vanishing probability (Beirami et al. 2024,
    https://arxiv.org/abs/2401.01879). Raises ValueError if n < 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    return float(np.log(n)) - (n - 1) / n


def _by_rank(chooses: Array, reported: Array) -> Array:
    """[N] reported scores, ordered from the proxy's worst sample to its best.

    For samples with equal proxy scores, the reported scores are replaced by their mean.
    """
    _, group = np.unique(chooses, return_inverse=True)
    means = np.bincount(group, weights=reported) / np.bincount(group)
    return means[np.sort(group)]


def _rank_weights(samples: int, n: int) -> Array:
    """[N] probability that the sample of each rank (worst first) is the best of n, sampled without replacement."""
    rank = np.arange(1, samples + 1, dtype=np.float64)
    logs = np.full(samples, -np.inf)
    able = rank >= n
    total = _log_choose(np.array(float(samples)), n)
    logs[able] = _log_choose(rank[able] - 1, n - 1) - total
    return np.exp(logs)


def _log_choose(m: Array, k: int) -> Array:
    return gammaln(m + 1) - gammaln(k + 1) - gammaln(m - k + 1)
