"""Power analysis: how many prompts show a difference of win-rates, and which difference a number of prompts shows."""

from __future__ import annotations

import math

import scipy


def power(prompts: int, rate: float, *, tie_rate: float = 0.0, level: float = 0.95) -> float:
    """Probability that the two-sided score test of "win-rate = 1/2" rejects if the win-rate is `rate`.

    tie_rate: share of rows that are ties, which count half. More ties mean more power, because ties add no noise.
    level:    1 - the significance level of the test.
    This is a normal approximation. Raises ValueError if such a win-rate and tie rate are impossible or `rate` is 1/2.
    """
    z, null, actual = _scales(rate, tie_rate, level)
    shift, width = abs(rate - 0.5) * math.sqrt(prompts), z * null
    return float(scipy.special.ndtr((shift - width) / actual) + scipy.special.ndtr((-shift - width) / actual))


def prompts_needed(difference: float = 0.05, *, chance: float = 0.8, tie_rate: float = 0.0, level: float = 0.95) -> int:
    """Smallest number of prompts that show a win-rate of 1/2 + difference to differ from 1/2, with power `chance`."""
    z, null, actual = _scales(0.5 + difference, tie_rate, level)
    start = ((z * null + float(scipy.special.ndtri(chance)) * actual) / difference) ** 2  # ignores the far tail
    count = max(1, math.floor(start) - 2)
    while power(count, 0.5 + difference, tie_rate=tie_rate, level=level) < chance:
        count += 1
    return count


def detectable(prompts: int, *, chance: float = 0.8, tie_rate: float = 0.0, level: float = 0.95) -> float:
    """Smallest difference from 1/2 that this many prompts show with power `chance`. NaN if they show none."""
    low, high = 0.0, (1 - tie_rate) / 2
    if prompts < 1 or power(prompts, 0.5 + high * (1 - 1e-12), tie_rate=tie_rate, level=level) < chance:
        return float("nan")
    for _ in range(60):
        middle = (low + high) / 2
        enough = power(prompts, 0.5 + middle, tie_rate=tie_rate, level=level) >= chance
        low, high = (low, middle) if enough else (middle, high)
    return high


def paired_prompts_needed(difference: float, deviation: float, *, chance: float = 0.8, level: float = 0.95) -> int:
    """Smallest number of prompts that show a difference between two runs on the same prompts, with power `chance`.

    difference: of the runs' mean scores.
    deviation:  standard deviation over prompts of the difference of scores. It is small if scores depend more on the
                prompt than on the run. Take it from a pilot.
    This is a normal approximation. Raises ValueError if the difference is 0 or the deviation negative.
    """
    if difference == 0 or deviation < 0:
        raise ValueError("needs a difference other than 0 and a deviation of at least 0")
    z = float(scipy.special.ndtri((1 + level) / 2)) + float(scipy.special.ndtri(chance))
    return max(1, math.ceil((z * deviation / difference) ** 2))


def _scales(rate: float, tie_rate: float, level: float) -> tuple[float, float, float]:
    """(normal quantile, standard deviation of one row if the win-rate is 1/2, the same if it is `rate`).

    Ties reduce the variance of a row by tie_rate / 4. Raises ValueError for impossible rates.
    """
    if not tie_rate / 2 < rate < 1 - tie_rate / 2 or not 0 <= tie_rate < 1 or rate == 0.5:
        raise ValueError(f"a win-rate of {rate} with {tie_rate:.0%} ties is impossible, or is 1/2")
    null, actual = (math.sqrt(p * (1 - p) - tie_rate / 4) for p in (0.5, rate))
    return float(scipy.special.ndtri((1 + level) / 2)), null, actual
