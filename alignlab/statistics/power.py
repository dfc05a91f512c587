"""Sample sizes: how many prompts or seeds it takes to see a difference, and what a given number can show."""

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


def pairs_needed(
    difference: float, deviation: float, *, chance: float = 0.8, level: float = 0.95, most: int = 10_000
) -> int | None:
    """Fewest pairs with which a two-sided paired t test finds a difference with the given chance.

    A pair is a prompt that two runs answered, or a seed that two settings were trained with. `difference` is the mean
    over pairs and `deviation` its standard deviation over pairs, both from a pilot. None if there is no difference, or
    if it would take more than `most` pairs.
    """
    if deviation < 0:
        raise ValueError(f"the deviation must be at least 0, not {deviation}")
    if difference == 0:
        return None
    if deviation == 0:
        return 2
    effect = abs(difference) / deviation
    # This many pairs would do if the deviation were known. The t test needs a few more, never fewer.
    z = float(scipy.special.ndtri((1 + level) / 2)) + float(scipy.special.ndtri(chance))
    n = max(2, math.ceil((z * deviation / abs(difference)) ** 2))
    while n <= most and paired_power(n, effect, level=level) < chance:
        n += 1
    return n if n <= most else None


def paired_power(pairs: int, effect: float, *, level: float = 0.95) -> float:
    """Chance that a two-sided paired t test rejects; `effect` is the mean difference over its standard deviation."""
    critical = scipy.special.stdtrit(pairs - 1, (1 + level) / 2)
    shift = effect * math.sqrt(pairs)
    below, above = (float(scipy.special.nctdtr(pairs - 1, shift, t)) for t in (-critical, critical))
    return (0.0 if math.isnan(below) else below) + 1 - above  # where scipy gives NaN, the chance is below 1e-11


def _scales(rate: float, tie_rate: float, level: float) -> tuple[float, float, float]:
    """(normal quantile, standard deviation of one row if the win-rate is 1/2, the same if it is `rate`).

    Ties reduce the variance of a row by tie_rate / 4. Raises ValueError for impossible rates.
    """
    if not tie_rate / 2 < rate < 1 - tie_rate / 2 or not 0 <= tie_rate < 1 or rate == 0.5:
        raise ValueError(f"a win-rate of {rate} with {tie_rate:.0%} ties is impossible, or is 1/2")
    null, actual = (math.sqrt(p * (1 - p) - tie_rate / 4) for p in (0.5, rate))
    return float(scipy.special.ndtri((1 + level) / 2)), null, actual
