"""Scores of a benchmark as numbers with intervals: of the policy, of its reference, and of their difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from alignlab.statistics.intervals import Estimate, mean_interval, score_interval
from alignlab.statistics.winrate import paired_difference

# Name of a score -> one number for each item.
Scores = Mapping[str, Sequence[float]]


def benchmark_numbers(sides: Mapping[str, Scores]) -> dict[str, dict[str, Any]]:
    """Score -> side -> estimate with a 95 % interval over items, and `difference`: policy - reference, paired by item.

    sides: `policy` and, if there is one, `reference`. Both have answered the same items in the same order.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, values in sides["policy"].items():
        numbers = {side: asdict(_estimate(scores[name])) for side, scores in sides.items() if name in scores}
        other = sides.get("reference", {}).get(name)
        if other is not None and len(other) == len(values):
            numbers["difference"] = asdict(paired_difference(values, other))
        found[name] = numbers
    return found


def _estimate(values: Sequence[float]) -> Estimate:
    share = all(0 <= value <= 1 for value in values)
    return score_interval(values) if share else mean_interval(values)


def flat_benchmarks(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[tuple[str, float]]:
    """(name, value) of the metrics `benchmark/<benchmark>/<score>...` of a summary (alignlab/tracking/metrics.py)."""
    for benchmark, scores in found.items():
        for score, numbers in scores.items():
            name = f"benchmark/{benchmark}/{score}"
            yield name, numbers["policy"]["value"]
            yield f"{name}/ci_low", numbers["policy"]["low"]
            yield f"{name}/ci_high", numbers["policy"]["high"]
            yield f"{name}/n", numbers["policy"]["n"]
            for other in ("reference", "difference"):
                if other in numbers:
                    yield f"{name}/{other}", numbers[other]["value"]
