"""Compares methods at equal KL, because more reward at a higher KL does not make a method better.

The runs of a method are joined to a curve of reward against KL.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from alignlab.errors import DataError
from alignlab.evaluation.examples import Examples, same_prompts, unscored
from alignlab.statistics.intervals import Array, Estimate, from_draws, resampled_sums

# A band needs bootstrap samples in which the KL lies within the method's runs. At most this share may lack it.
_MAY_LACK = 0.05


def score_at_kl(
    runs: Sequence[Examples], judge: str, at: ArrayLike, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> list[Estimate]:
    """Mean score of a method at given KLs (sequence_k1, nats per answer), linear between its runs and its reference.

    runs:  examples of one method's runs at several strengths, with the same prompts and with the reference as baseline.
    at:    the KLs.
    level: confidence level of the bands.
    draws: number of bootstrap samples.

    Bands are bootstrap intervals over prompts. A bootstrap sample has the same prompts for the KLs and scores of all
    runs. Estimates are NaN outside the KLs of the method's runs. If every method gets the same prompts and `seed`,
    differences between methods are paired.
    Raises DataError if the runs have different prompts, or if an answer has no score.
    """
    first = runs[0]
    if not all(same_prompts(first, run) for run in runs):
        raise DataError("runs need the same prompts to be compared at equal KL: evaluate them with the same settings")
    names, codes = np.unique(np.asarray(first["prompt_id"]), return_inverse=True)
    rows = np.bincount(codes).astype(np.float64)
    columns = [np.zeros(len(codes)), np.array(unscored(first[f"reference/score/{judge}"]))]
    for run in runs:
        columns += [_ratios(run), np.array(unscored(run[f"policy/score/{judge}"]))]
    if np.isnan(columns).any():
        raise DataError(f"some answers have no score by {judge}, but a curve needs the scores of all answers")
    totals: Array = np.stack([np.bincount(codes, weights=column) for column in columns] + [rows], axis=1)
    whole = totals.sum(axis=0)
    kls = np.asarray(at, dtype=np.float64)
    values = _curve(whole[:-1] / whole[-1], kls)
    sums = resampled_sums(totals, draws, seed=seed)
    resampled = np.stack([_curve(row[:-1] / row[-1], kls) for row in sums])
    return [_estimate(value, resampled[:, i], len(names), level) for i, value in enumerate(values)]


def kl_of(run: Examples) -> float:
    """Mean log-ratio of a run's answers, nats per answer."""
    return float(_ratios(run).mean())


def _ratios(run: Examples) -> Array:
    pairs = zip(run["policy/policy_logps"], run["policy/reference_logps"], strict=True)
    return np.array([sum(p) - sum(q) for p, q in pairs])


def _curve(points: Array, at: Array) -> Array:
    """[2 (R + 1)] alternating KLs and scores -> scores at the KLs `at`, NaN outside the given KLs."""
    kls, scores = points[0::2], points[1::2]
    order = np.argsort(kls)
    return np.interp(at, kls[order], scores[order], left=np.nan, right=np.nan)


def _estimate(value: float, resampled: Array, groups: int, level: float) -> Estimate:
    valid = resampled[~np.isnan(resampled)]
    if np.isnan(value) or len(valid) < (1 - _MAY_LACK) * len(resampled):
        return Estimate(float("nan"), float("nan"), float("nan"), float("nan"), groups)
    return from_draws(float(value), valid, groups, level=level)
