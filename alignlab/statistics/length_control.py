"""Length-controlled win-rate, Dubois et al. 2024, https://arxiv.org/abs/2404.04475.

P(candidate preferred on prompt x) = sigmoid(quality + length tanh(D_x / std(D)) + difficulty g_x), where D_x is the
length of the candidate's answer minus that of the baseline's. The controlled win-rate is the mean over prompts with the
length term set to 0: the win-rate that answers of equal length would have.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from alignlab.statistics.intervals import Array, Estimate, chosen, cluster_codes, t_quantile


@dataclass(frozen=True)
class Weights:
    """Weights of the fitted model, in log-odds.

    quality:    log-odds of a win at equal length and difficulty 0.
    length:     positive if the judge prefers longer answers.
    difficulty: weight of the prompt's difficulty.
    """

    quality: float
    length: float
    difficulty: float


@dataclass(frozen=True)
class LengthControlled:
    """The controlled win-rate and the raw one, both in [0, 1], and the weights."""

    rate: Estimate
    raw: float
    weights: Weights


def controlled_rate(weights: Weights, difficulty: ArrayLike) -> tuple[float, float]:
    """(controlled win-rate, standard error) from given weights, over the prompts with these difficulties [n].

    The standard error is computed as on the AlpacaEval leaderboard: from the spread of the prompts' probabilities, with
    the weights taken as known.
    """
    chances = scipy.special.expit(weights.quality + weights.difficulty * np.asarray(difficulty, dtype=np.float64))
    spread = float(chances.std(ddof=1)) / np.sqrt(len(chances)) if len(chances) > 1 else float("nan")
    return float(chances.mean()), float(spread)


def length_controlled(
    scores: ArrayLike,
    length: ArrayLike,
    baseline_length: ArrayLike,
    *,
    difficulty: ArrayLike | None = None,
    prompts: Sequence[Hashable] | None = None,
    level: float = 0.95,
    ridge: float = 1e-3,
) -> LengthControlled:
    """Fit the model to scores and compute the controlled win-rate from it.

    scores:          [R] in [0, 1]; rows with NaN are left out.
    length, baseline_length: [R] lengths of the candidate's and the baseline's answers; in characters, as in the paper.
    difficulty:      [R] difficulty of the prompt, if it is known from other models; None leaves the term out.
    prompts:         [R] name of each row's prompt; None if every row has its own.
    ridge:           penalty on the squared weights. It keeps them finite for a candidate that wins every comparison.

    The standard error accounts for the uncertainty of the weights and for that of the prompts (sandwich estimator,
    clustered by prompt). The interval is computed on the log-odds. AlpacaEval's own fit has an L1 penalty and a gamed
    copy of the baseline in its data, so its result differs by one or two points.

    Raises ValueError if fewer than two prompts have a score, if arrays have different lengths, or if numbers are not
    finite.
    """
    y = np.asarray(scores, dtype=np.float64)
    for name, values in (("length", length), ("baseline_length", baseline_length), ("difficulty", difficulty)):
        if values is not None and np.shape(values) != y.shape:
            raise ValueError(f"{name} {np.shape(values)} must have a number for each score {y.shape}")
        if values is not None and not np.isfinite(np.asarray(values, dtype=np.float64)[~np.isnan(y)]).all():
            raise ValueError(f"{name} has numbers that are not finite")
    valid = ~np.isnan(y)
    codes, groups = cluster_codes(chosen(prompts, valid), int(valid.sum()))
    if groups < 2:
        raise ValueError("a length-controlled win-rate needs scores on at least two prompts")
    y = y[valid]
    longer = (np.asarray(length, dtype=np.float64) - np.asarray(baseline_length, dtype=np.float64))[valid]
    spread = longer.std(ddof=1)
    hardness = None if difficulty is None else np.asarray(difficulty, dtype=np.float64)[valid]
    columns = [np.ones_like(y), np.tanh(longer / spread) if spread > 0 else np.zeros_like(y)]
    design = np.stack(columns if hardness is None else [*columns, hardness], axis=1)
    weights, inverse = _fit(design, y, ridge)

    equal = design.copy()
    equal[:, 1] = 0.0
    chances = scipy.special.expit(equal @ weights)
    rate = float(chances.mean())
    slope = (chances * (1 - chances)) @ equal  # derivative of the sum of chances by the weights
    influence = chances - rate + (design * (y - scipy.special.expit(design @ weights))[:, None]) @ inverse @ slope
    sums = np.bincount(codes, weights=influence, minlength=groups)
    error = float(np.sqrt((sums**2).sum() * groups / (groups - 1))) / len(y)
    half = t_quantile(level, groups) * error / (rate * (1 - rate))
    low, high = (float(scipy.special.expit(scipy.special.logit(rate) + side * half)) for side in (-1, 1))
    return LengthControlled(
        rate=Estimate(rate, error, low, high, groups),
        raw=float(y.mean()),
        weights=Weights(float(weights[0]), float(weights[1]), 0.0 if hardness is None else float(weights[2])),
    )


def _fit(design: Array, y: Array, ridge: float) -> tuple[Array, Array]:
    """(weights, inverse Hessian) of the penalised logistic likelihood, by Newton's method with halved steps."""
    weights = np.zeros(design.shape[1])
    penalty = ridge * np.eye(len(weights))

    def loss(w: Array) -> float:
        eta = design @ w
        return float((np.logaddexp(0, eta) - y * eta).sum() + ridge / 2 * w @ w)

    for _ in range(200):
        chances = scipy.special.expit(design @ weights)
        gradient = design.T @ (chances - y) + ridge * weights
        hessian = (design * (chances * (1 - chances))[:, None]).T @ design + penalty
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while loss(weights - size * step) > loss(weights) + 1e-9 and size > 1e-6:
            size /= 2
        weights = weights - size * step
        if np.abs(step).max() < 1e-10:
            break
    return weights, np.linalg.inv(hessian)
