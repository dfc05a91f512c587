"""Intervals over seeds and prompts together."""

from __future__ import annotations

import numpy as np
import pytest

from alignlab.statistics.comparison import Run, compare_settings
from alignlab.statistics.seeds import compare_with_best
from alignlab.statistics.seeds_and_prompts import Crossed

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
