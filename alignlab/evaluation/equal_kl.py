"""Methods at equal KL: more reward at more KL is no better method, so runs are joined to curves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from alignlab.errors import DataError
from alignlab.evaluation.examples import Examples, same_prompts, unscored
from alignlab.statistics.intervals import Array, Estimate, from_draws, resampled_sums

# Of the draws in which a KL lies beyond a method's runs, so many may be missing for its band to be told.
_MAY_LACK = 0.05


def score_at_kl(
    runs: Sequence[Examples], judge: str, at: ArrayLike, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> list[Estimate]:
    """Mean score of a method at given KLs (sequence_k1, nats an answer), linear between its runs and its reference.

    runs: of one method, at several strengths, with the same prompts and the reference among their baselines.

    Bands are bootstrap intervals over prompts, in which KLs and scores of all runs move together. NaN beyond the
    method's runs. Give every method the same prompts and `seed`, and differences of bands are paired.
    """
    first = runs[0]
    if not all(same_prompts(first, run) for run in runs):
        raise DataError("runs that are compared at equal KL need the same prompts: evaluate them alike")
    names, codes = np.unique(np.asarray(first["prompt_id"]), return_inverse=True)
    rows = np.bincount(codes).astype(np.float64)
    columns = [np.zeros(len(codes)), np.array(unscored(first[f"reference/score/{judge}"]))]
    for run in runs:
        columns += [_ratios(run), np.array(unscored(run[f"policy/score/{judge}"]))]
    if np.isnan(columns).any():
        raise DataError(f"some answers have no score by {judge}, and a curve needs all of them")
    totals: Array = np.stack([np.bincount(codes, weights=column) for column in columns] + [rows], axis=1)
    whole = totals.sum(axis=0)
    kls = np.asarray(at, dtype=np.float64)
    values = _curve(whole[:-1] / whole[-1], kls)
    sums = resampled_sums(totals, draws, seed=seed)
    drawn = np.stack([_curve(row[:-1] / row[-1], kls) for row in sums])
    return [_estimate(value, drawn[:, i], len(names), level) for i, value in enumerate(values)]


def kl_of(run: Examples) -> float:
    """Mean log-ratio of a run's answers, nats an answer."""
    return float(_ratios(run).mean())


def _ratios(run: Examples) -> Array:
    pairs = zip(run["policy/policy_logps"], run["policy/reference_logps"], strict=True)
    return np.array([sum(p) - sum(q) for p, q in pairs])


def _curve(points: Array, at: Array) -> Array:
    """[2 (R + 1)] KLs and scores in turn -> scores at the KLs, NaN where there is nothing to interpolate between."""
    kls, scores = points[0::2], points[1::2]
    order = np.argsort(kls)
    return np.interp(at, kls[order], scores[order], left=np.nan, right=np.nan)


def _estimate(value: float, drawn: Array, groups: int, level: float) -> Estimate:
    there = drawn[~np.isnan(drawn)]
    if np.isnan(value) or len(there) < (1 - _MAY_LACK) * len(drawn):
        return Estimate(float("nan"), float("nan"), float("nan"), float("nan"), groups)
    return from_draws(float(value), there, groups, level=level)
