"""Tests whether a model has changed, by comparing a later set of samples with a stored one.

Every measure is tested. The p-values are corrected by Holm's method.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr

from alignlab.errors import DataError
from alignlab.evaluation.examples import Examples, same_prompts, unscored
from alignlab.evaluation.text_metrics import repetition
from alignlab.statistics.intervals import Array, Estimate, mean_interval
from alignlab.statistics.significance import holm

_LEVEL = 0.05


@dataclass(frozen=True)
class Change:
    """A measure of the policy's answers in the earlier set (`then`) and in the later one (`now`).

    difference: now minus then, with its interval. If both sets have the same prompts, it is the mean over prompts.
    p:          p-value, Holm-adjusted over all measures.
    """

    measure: str
    then: float
    now: float
    difference: Estimate
    p: float

    @property
    def drifted(self) -> bool:
        return self.p < _LEVEL


_UNDER_REFERENCE = "log-probability under the reference, nats"


def drift(earlier: Examples, later: Examples) -> list[Change]:
    """Changes of every measure that both sets have: lengths, ends, repetition, log-probabilities (nats), scores.

    If both sets have the same prompts, differences are taken prompt by prompt. Otherwise means are compared (Welch).
    Raises DataError if a judge had other settings in one of the sets.
    """
    paired = same_prompts(earlier, later)
    then, now = _measures(earlier), _measures(later)
    judges = [name.removeprefix("score: ") for name in then if name in now and name.startswith("score: ")]
    for judge in judges:
        old, new = (examples.facts.get(f"judge/{judge}") for examples in (earlier, later))
        if old != new:
            raise DataError(f"scores of {judge} can't be compared: the judge had other settings then ({old}, {new})")
    if earlier.facts.get("reference") != later.facts.get("reference"):
        then.pop(_UNDER_REFERENCE, None)  # the reference was another model
    changes = []
    for name in [name for name in then if name in now]:
        before, after = (mean_interval(*_valid(v, e)) for v, e in ((then[name], earlier), (now[name], later)))
        same = mean_interval(*_valid(now[name] - then[name], earlier)) if paired else None
        difference = same or _welch(before, after)
        changes.append(Change(name, before.value, after.value, difference, _p(difference)))
    adjusted = holm([change.p for change in changes])
    return [replace(change, p=p) for change, p in zip(changes, adjusted, strict=True)]


def _measures(examples: Examples) -> dict[str, Array]:
    """Name of a measure -> [rows] values, NaN for rows without one."""
    found: dict[str, Sequence[float]] = {
        "tokens": examples["policy/tokens"],
        "characters": [len(text) for text in examples["policy/answer"]],
        "ended": [float(ended) for ended in examples["policy/ended"]],
        "repetition": [repetition(text) for text in examples["policy/answer"]],
    }
    if "policy/reference_logps" in examples:
        found[_UNDER_REFERENCE] = [sum(tokens) for tokens in examples["policy/reference_logps"]]
    found |= {f"score: {judge}": unscored(examples[f"policy/score/{judge}"]) for judge in examples.scored_by}
    return {name: np.asarray(values, dtype=np.float64) for name, values in found.items()}


def _valid(values: Array, examples: Examples) -> tuple[Array, list[Hashable]]:
    valid = ~np.isnan(values)
    return values[valid], [name for name, ok in zip(examples["prompt_id"], valid, strict=True) if ok]


def _welch(before: Estimate, after: Estimate) -> Estimate:
    """Difference of two independent means; the smaller number of prompts sets the degrees of freedom."""
    error = math.hypot(before.standard_error, after.standard_error)
    half = math.hypot(before.value - before.low, after.value - after.low)
    value = after.value - before.value
    return Estimate(value, error, value - half, value + half, min(before.n, after.n))


def _p(difference: Estimate) -> float:
    """Two-sided p-value by Student's distribution with (prompts - 1) degrees of freedom.

    It is 1 if there is no difference or only one prompt. If all prompts differ by the same number, it is the
    probability of so many equal signs.
    """
    if difference.n < 2 or not abs(difference.value) > 0:
        return 1.0
    if not difference.standard_error > 0:
        return float(min(1.0, 2 * 0.5**difference.n))
    return float(2 * stdtr(difference.n - 1, -abs(difference.value) / difference.standard_error))
