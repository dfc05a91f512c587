"""Intervals over seeds and prompts together."""

from __future__ import annotations

import numpy as np
import pytest

from alignlab.statistics.comparison import Run, compare_settings
from alignlab.statistics.seeds import compare_with_best
from alignlab.statistics.seeds_and_prompts import Crossed, pooled_rate

LEVEL = 0.95


def test_by_hand() -> None:
    """Means of seeds 1, 3; of prompts 1, 3; no rest. t_1 = 12.7062, both variances are 1: half = 12.7062 √2."""
    found = Crossed()([[0.0, 2.0], [2.0, 4.0]], LEVEL)
    assert (found.value, found.n) == (2.0, 2)
    assert found.half == pytest.approx(12.7062 * np.sqrt(2), rel=1e-4)
    alone = Crossed(all_prompts=True)([[0.0, 2.0], [2.0, 4.0]], LEVEL)
    assert alone.half == pytest.approx(12.7062, rel=1e-4), "the prompts are all that there are"


def test_one_seed_has_an_interval_over_prompts() -> None:
    found = Crossed()([[1.0, 2.0, 3.0, 4.0]], LEVEL)
    assert (found.value, found.n) == (2.5, 4)
    assert found.half == pytest.approx(2.0542, abs=1e-3)
    assert Crossed()([], LEVEL).n == 0


def test_the_variances_are_those_of_a_mixed_model_of_statsmodels() -> None:
    """Balanced two-way analysis of variance: A - C / 1 and so on are the mean squares of an OLS fit."""
    import pandas as pd
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    rng = np.random.default_rng(1)
    table = rng.normal(size=(4, 6)) + rng.normal(size=(4, 1)) + rng.normal(size=(1, 6))
    rows = pd.DataFrame([{"s": s, "p": p, "y": table[s, p]} for s in range(4) for p in range(6)])
    squares = anova_lm(ols("y ~ C(s) + C(p)", rows).fit())["mean_sq"]
    found = Crossed()(table, LEVEL)
    expected = (squares["C(s)"] + squares["C(p)"] - squares["Residual"]) / 24
    assert found.standard_error**2 == pytest.approx(expected)


@pytest.mark.parametrize(("seeds", "prompts"), [(2, 64), (3, 16), (5, 64)])
@pytest.mark.parametrize("spreads", [(0.1, 1.0, 1.0), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0)])
def test_intervals_cover(seeds: int, prompts: int, spreads: tuple[float, float, float]) -> None:
    """Standard deviations of seeds, prompts and the rest. Means over all rows of one seed alone cover far less."""
    rng = np.random.default_rng(seeds)
    hits, plain = [], []
    for _ in range(1500):
        table = (
            rng.normal(0, spreads[0], (seeds, 1))
            + rng.normal(0, spreads[1], (1, prompts))
            + rng.normal(0, spreads[2], (seeds, prompts))
        )
        found = Crossed()(table, LEVEL)
        hits.append(found.low <= 0 <= found.high)
        plain.append(abs(table.mean()) <= 1.96 * table.std() / np.sqrt(table.size))
    assert np.mean(hits) >= 0.935
    if spreads[0] == 1.0:
        assert np.mean(plain) < 0.6


def test_settings_are_compared_over_seeds_and_prompts() -> None:
    """The setting b is better by 0.2 on half of the prompts; that holds for these prompts, not for others."""
    rng = np.random.default_rng(3)
    runs = []
    for setting, gain in (("a", 0.0), ("b", 0.2)):
        for seed in range(3):
            score = rng.normal(0, 0.01, 8) + gain * np.array([1, 1, 1, 1, -1, -1, 1, 1]) + 1
            numbers = {"eval/kl_ref/sequence_k1": np.full(8, 1.0), "eval/score/j/mean": score}
            runs.append(Run((setting,), str(seed), {**numbers, "eval/score/j/reference": np.zeros(8)}))
    of_sample = compare_settings(runs, ["x"], interval_of=Crossed())
    of_all = compare_settings(runs, ["x"], interval_of=Crossed(all_prompts=True))
    assert (of_sample.groups[0].best, of_all.groups[0].best) == ("x b", "x b")
    assert of_sample.comparisons["x a"].tied is True
    assert of_all.comparisons["x a"].tied is False
    assert of_sample.settings[1].means["eval/score/j/mean"].value == pytest.approx(1.1, abs=0.02)


def test_one_common_seed_of_several_decides_nothing() -> None:
    """B answers 64 prompts worse, but only its seed 1 is done; an interval over prompts says nothing about seeds."""
    rng = np.random.default_rng(0)
    of = {"A": {s: 1.0 + 0.1 * rng.standard_normal(64) for s in "123"}, "B": {"1": 0.1 * rng.standard_normal(64)}}
    best, found = compare_with_best(of, lower_is_better=False, interval_of=Crossed())
    assert (best, found["B"].tied) == ("A", None)
    of["A"] = {"1": of["A"]["1"]}
    _, found = compare_with_best(of, lower_is_better=False, interval_of=Crossed())
    assert found["B"].tied is False, "with one seed each, these two runs differ"


def test_a_pooled_rate_is_crossed_and_stays_between_0_and_1() -> None:
    rates = [[1.0, 0.0, 0.5, 1.0], [1.0, 0.5, 0.5, 1.0], [1.0, 0.0, 1.0, 1.0]]
    inside = Crossed()(rates, 0.5)
    assert pooled_rate(rates, 0.5) == inside
    assert (inside.value, inside.n) == (pytest.approx(0.7083, abs=1e-4), 3)
    wide, alone = Crossed()(rates, LEVEL), Crossed(all_prompts=True)(rates, LEVEL)
    assert wide.high > 1
    assert (pooled_rate(rates).low, pooled_rate(rates).high) == (wide.low, 1.0)
    assert pooled_rate(rates, all_prompts=True).low == pytest.approx(alone.low)
    with pytest.raises(ValueError, match="must lie in"):
        pooled_rate([[0.5, 1.5], [0.5, 0.5]])
    assert pooled_rate([]).n == 0


def test_rates_that_all_agree_still_have_an_interval() -> None:
    """Wilson's interval of as many wins of as many prompts; of answers, if the prompts are all that there are."""
    from statsmodels.stats.proportion import proportion_confint

    won = np.ones((3, 16))
    low, high = proportion_confint(16, 16, method="wilson")
    found = pooled_rate(won)
    assert (found.value, found.low, found.high, found.n) == (1.0, pytest.approx(low), pytest.approx(high), 3)
    assert pooled_rate(won, all_prompts=True).low == pytest.approx(proportion_confint(48, 48, method="wilson")[0])


def test_seeds_with_equal_rates_still_have_an_interval() -> None:
    """Each seed loses another prompt, so the means of seeds are equal and those of prompts vary by chance alone."""
    from statsmodels.stats.proportion import proportion_confint

    rates = np.ones((3, 16))
    rates[[0, 1, 2], [0, 1, 2]] = 0
    assert Crossed()(rates, LEVEL).half == 0
    for all_prompts, rows in ((False, 16), (True, 48)):
        found = pooled_rate(rates, all_prompts=all_prompts)
        expected = proportion_confint(15 / 16 * rows, rows, method="wilson")
        assert (found.value, found.low, found.high) == pytest.approx((15 / 16, *expected))


@pytest.mark.parametrize(("spread", "ease"), [(0.0, 0.0), (0.5, 1.0)])
def test_pooled_win_rates_cover(spread: float, ease: float) -> None:
    """Wins are drawn with a probability that depends on the seed and on the prompt. The truth is the mean over both."""
    rng = np.random.default_rng(4)

    def chances(seeds: int, prompts: int) -> np.ndarray:  # type: ignore[type-arg]
        logits = 1.0 + rng.normal(0, spread, (seeds, 1)) + rng.normal(0, ease, (1, prompts))
        return 1 / (1 + np.exp(-logits))

    truth = chances(3000, 3000).mean()
    found = [pooled_rate((rng.random((3, 32)) < chances(3, 32)).astype(float)) for _ in range(800)]
    assert np.mean([one.low <= truth <= one.high for one in found]) > 0.93
    over_prompts = [1.96 * np.sqrt(truth * (1 - truth) / 32) for _ in found]
    assert np.mean([one.half for one in found]) < 2.2 * np.mean(over_prompts)
