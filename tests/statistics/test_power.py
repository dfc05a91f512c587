"""Numbers of prompts: a textbook value, functions that are inverse to each other, and simulation."""

from __future__ import annotations

import numpy as np
import pytest

from alignlab.statistics.intervals import share_interval
from alignlab.statistics.power import detectable, pairs_needed, power, prompts_needed


def test_five_points() -> None:
    """((1.95996 * .5 + .84162 * sqrt(.55 * .45)) / .05)^2 = 782.5."""
    assert prompts_needed(0.05) == 783
    assert prompts_needed(0.10) == 194
    assert prompts_needed(0.05, tie_rate=0.4) < prompts_needed(0.05)
    assert prompts_needed(0.05, chance=0.9) > prompts_needed(0.05)


def test_they_invert_each_other() -> None:
    for tie_rate in (0.0, 0.3):
        n = prompts_needed(0.07, tie_rate=tie_rate)
        assert power(n, 0.57, tie_rate=tie_rate) >= 0.8 > power(n - 1, 0.57, tie_rate=tie_rate)
        assert detectable(n, tie_rate=tie_rate) == pytest.approx(0.07, abs=2e-4)
    assert power(100, 0.4) == pytest.approx(power(100, 0.6))
    assert np.isnan(detectable(3))
    assert np.isnan(detectable(0))


@pytest.mark.parametrize(("rate", "tie_rate"), [(0.55, 0.0), (0.6, 0.3)])
def test_as_often_as_said(rate: float, tie_rate: float) -> None:
    """In simulation, the share of intervals without 1/2 is the requested power: the interval inverts the score test."""
    n = prompts_needed(rate - 0.5, tie_rate=tie_rate)
    shares = [rate - tie_rate / 2, tie_rate, 1 - rate - tie_rate / 2]
    counts = np.random.default_rng(0).multinomial(n, shares, size=3000).tolist()
    seen = np.mean(
        [not low <= 0.5 <= high for low, high in ((f.low, f.high) for f in (share_interval(*c) for c in counts))]
    )
    assert seen == pytest.approx(0.8, abs=0.03)


def test_pairs() -> None:
    """(2.8016 * .5 / .1)^2 = 196.2 if the deviation were known; the t test takes 199 (Cohen 1988, effect 0.2)."""
    assert pairs_needed(0.1, 0.5) == 199
    assert pairs_needed(-0.1, 0.5) == 199
    assert pairs_needed(0.1, 0.5, most=198) is None
    assert pairs_needed(0.0, 0.5) is None
    with pytest.raises(ValueError, match="at least 0"):
        pairs_needed(0.1, -0.5)


def test_impossible_rates_are_refused() -> None:
    for rate, tie_rate in ((0.5, 0.0), (0.9, 0.5), (1.0, 0.0)):
        with pytest.raises(ValueError, match="is impossible, or is 1/2"):
            power(100, rate, tie_rate=tie_rate)


@pytest.mark.parametrize("tie_rate", [0.0, 0.3])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_power_is_that_of_statsmodels(tie_rate: float, level: float) -> None:
    """A normal test whose standard deviation under 1/2 differs from the one under the win-rate itself."""
    from statsmodels.stats.power import normal_power_het, normal_sample_size_one_tail

    for rate in (0.4, 0.55, 0.7):
        spreads = {
            "std_null": np.sqrt(0.25 - tie_rate / 4),
            "std_alternative": np.sqrt(rate * (1 - rate) - tie_rate / 4),
        }
        for prompts in (5, 50, 500):
            theirs = normal_power_het(rate - 0.5, prompts, 1 - level, **spreads)
            assert power(prompts, rate, tie_rate=tie_rate, level=level) == pytest.approx(theirs, abs=1e-12)
        theirs = normal_sample_size_one_tail(rate - 0.5, 0.8, (1 - level) / 2, **spreads)
        needed = prompts_needed(rate - 0.5, tie_rate=tie_rate, level=level)
        assert needed == np.ceil(theirs), "the far tail, which theirs neglects, does not matter here"


def test_pairs_are_those_of_statsmodels() -> None:
    from statsmodels.stats.power import TTestPower

    for difference, deviation, chance in ((0.1, 0.5, 0.8), (-0.03, 0.2, 0.9), (0.2, 0.25, 0.5)):
        theirs = TTestPower().solve_power(abs(difference) / deviation, alpha=0.05, power=chance)
        assert pairs_needed(difference, deviation, chance=chance) == np.ceil(theirs)
