"""Means with intervals as reports show them: in tables, in sentences, in files and in figures.

The interval of a rate ends at 0 and at 1. Statistics that compare use the interval before it is cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from alignlab.statistics.intervals import Estimate
from alignlab.tracking.metrics import is_rate


def ends(metric: str, low: float, high: float) -> tuple[float, float]:
    """The ends of the interval of a metric, cut to [0, 1] for a rate. NaN stays NaN."""
    if not is_rate(metric):
        return low, high
    cut = (end if math.isnan(end) else min(max(end, 0.0), 1.0) for end in (low, high))
    return next(cut), next(cut)


def in_range(metric: str, found: Estimate) -> Estimate:
    """The estimate of a metric with the interval that reports show."""
    low, high = ends(metric, found.low, found.high)
    return replace(found, low=low, high=high)


def numbers_in_range(metric: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a metric, among them `low` and `high`, with the interval that reports show."""
    low, high = ends(metric, numbers["low"], numbers["high"])
    return {**numbers, "low": low, "high": high}


def mean_text(value: float, low: float | None, high: float | None, form: str, over: str = "seeds") -> str:
    """A mean in words: with ± half of its interval over seeds, or with the ends of another interval.

    Ends are shown also if they are not equally far from the mean, such as those of a win-rate near 1.

    low, high: None or NaN if there is no interval.
    form:      format of the numbers.
    over:      what the interval is over.
    """
    if low is None or high is None or not math.isfinite(high - low):
        return f"{value:{form}}"
    even = math.isclose(high - value, value - low, rel_tol=1e-6, abs_tol=1e-9)
    if even and over.startswith("seeds"):
        return f"{value:{form}} ± {(high - low) / 2:{form}}"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"
