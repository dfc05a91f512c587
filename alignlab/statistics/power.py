"""How many prompts it takes to see a difference of win-rates, and what can be seen with those there are."""

from __future__ import annotations

import math

import scipy


def power(prompts: int, rate: float, *, tie_rate: float = 0.0, level: float = 0.95) -> float:
    """Chance that the two-sided score test of "win-rate = 1/2" rejects when the win-rate is `rate`.

    tie_rate: share of rows that tie, counted half; ties carry no noise, so the more the better. Normal approximation.
    """
    z, null, there = _scales(rate, tie_rate, level)
    shift, width = abs(rate - 0.5) * math.sqrt(prompts), z * null
    return float(scipy.special.ndtr((shift - width) / there) + scipy.special.ndtr((-shift - width) / there))


def prompts_needed(difference: float = 0.05, *, chance: float = 0.8, tie_rate: float = 0.0, level: float = 0.95) -> int:
    """Fewest prompts with which a win-rate of 1/2 + difference is told from 1/2 with the given chance."""
    z, null, there = _scales(0.5 + difference, tie_rate, level)
    start = ((z * null + float(scipy.special.ndtri(chance)) * there) / difference) ** 2  # neglects the far tail
    count = max(1, math.floor(start) - 2)
    while power(count, 0.5 + difference, tie_rate=tie_rate, level=level) < chance:
        count += 1
    return count


def detectable(prompts: int, *, chance: float = 0.8, tie_rate: float = 0.0, level: float = 0.95) -> float:
    """Smallest difference from 1/2 that so many prompts show with the given chance; NaN where none is."""
    low, high = 0.0, (1 - tie_rate) / 2
    if prompts < 1 or power(prompts, 0.5 + high * (1 - 1e-12), tie_rate=tie_rate, level=level) < chance:
        return float("nan")
    for _ in range(60):
        middle = (low + high) / 2
        enough = power(prompts, 0.5 + middle, tie_rate=tie_rate, level=level) >= chance
        low, high = (low, middle) if enough else (middle, high)
    return high


def paired_prompts_needed(difference: float, deviation: float, *, chance: float = 0.8, level: float = 0.95) -> int:
    """Fewest prompts with which two runs on the same prompts are told apart.

    difference: of their mean scores. deviation: standard deviation over prompts of the difference of scores, which is
    small where prompts decide more than runs; take it from a pilot. Normal approximation.
    """
    if difference == 0 or deviation < 0:
        raise ValueError("needs a difference other than 0 and a deviation of at least 0")
    z = float(scipy.special.ndtri((1 + level) / 2)) + float(scipy.special.ndtri(chance))
    return max(1, math.ceil((z * deviation / difference) ** 2))


def _scales(rate: float, tie_rate: float, level: float) -> tuple[float, float, float]:
    """Quantile, standard deviation of one row under 1/2 and under `rate`. Ties take a quarter each off the variance."""
    if not tie_rate / 2 < rate < 1 - tie_rate / 2 or not 0 <= tie_rate < 1 or rate == 0.5:
        raise ValueError(f"no such rows: win-rate {rate} with {tie_rate:.0%} ties (it must differ from 1/2)")
    null, there = (math.sqrt(p * (1 - p) - tie_rate / 4) for p in (0.5, rate))
    return float(scipy.special.ndtri((1 + level) / 2)), null, there
