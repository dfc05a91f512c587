"""Intervals against known values, identities, and their coverage: how often they contain the true value."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy

from alignlab.statistics.intervals import bootstrap_mean, mean_interval, score_interval, share_interval

PROMISED = pytest.approx(0.95, abs=0.015)


def test_without_ties_it_is_wilsons() -> None:
    """(p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4 n^2)) / (1 + z^2 / n) at 7 of 10, by hand: .3968, .8922."""
    found = share_interval(7, 0, 3)
    assert (found.value, found.low, found.high) == pytest.approx((0.7, 0.396778, 0.892209), abs=1e-6)
    assert found.standard_error == pytest.approx(np.sqrt(0.7 * 0.3 / 10))


def test_counts_of_every_size_have_an_interval() -> None:
    """If all rows are won, Wilson's bound is n / (n + z^2), from one row to a million, also for fractional n."""
    for n in (1, 2, 7, 25, 400, 805.7, 1e6):
        assert share_interval(n, 0, 0).low == pytest.approx(n / (n + 1.959964**2), abs=1e-7)
        assert share_interval(0, 0, n).high == pytest.approx(1 - n / (n + 1.959964**2), abs=1e-7)


@pytest.mark.parametrize(("wins", "ties", "losses"), [(1, 43, 0), (12, 20, 5), (3, 30, 3)])
def test_bounds_are_where_the_score_test_stops_rejecting(wins: int, ties: int, losses: int) -> None:
    """At a bound d the score statistic is z, with the loss rate of maximum likelihood given d (found by search)."""
    n, found = wins + ties + losses, share_interval(wins, ties, losses)
    for d in (2 * found.low - 1, 2 * found.high - 1):
        rates = np.linspace(max(0.0, -d), (1 - d) / 2, 2_000_001)[1:-1]
        likely = wins * np.log(rates + d) + losses * np.log(rates) + ties * np.log(1 - 2 * rates - d)
        q = rates[np.argmax(likely)]
        assert abs(wins - losses - n * d) / np.sqrt(n * (2 * q + d * (1 - d))) == pytest.approx(1.959964, abs=1e-4)


@pytest.mark.parametrize("counts", [(5, 0, 0), (0, 0, 25), (0, 9, 0), (1, 20, 1), (30, 5, 12)])
def test_sides_may_be_swapped(counts: tuple[int, int, int]) -> None:
    one, other = share_interval(*counts), share_interval(*counts[::-1])
    assert (one.low, one.value, one.high) == pytest.approx((1 - other.high, 1 - other.value, 1 - other.low), abs=1e-9)
    assert 0 <= one.low <= one.value <= one.high <= 1
    assert one.low < one.high


def test_ties_narrow_an_interval() -> None:
    def widths(wins: int, ties: int) -> float:
        found = share_interval(wins, ties, wins)
        return found.high - found.low

    assert widths(20, 60) < widths(35, 30) < widths(50, 0)


def test_nothing_judged_is_no_estimate() -> None:
    assert np.isnan(share_interval(0, 0, 0).value)
    assert score_interval([]).n == mean_interval([]).n == bootstrap_mean([]).n == 0


def test_what_is_no_score_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        share_interval(-1, 0, 3)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        score_interval([0.0, 1.5])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        score_interval([0.0, float("nan")])
    with pytest.raises(ValueError, match="3 rows and 2 cluster names"):
        score_interval([0.0, 1.0, 1.0], ["a", "b"])


def test_one_row_a_prompt_is_as_without_prompts() -> None:
    scores = [1.0, 0.5, 0.0, 1.0, 1.0]
    assert score_interval(scores, list("abcde")) == score_interval(scores)
    assert score_interval(scores).high == share_interval(3, 1, 1).high


def test_the_same_row_twice_is_no_news() -> None:
    """Doubling every row within its prompt does not change the interval, except for the quantile of few prompts."""
    rng = np.random.default_rng(0)
    scores = rng.choice([0.0, 0.5, 1.0], size=2000)
    once, twice = score_interval(scores), score_interval(np.repeat(scores, 2), list(np.repeat(np.arange(2000), 2)))
    assert (twice.low, twice.high, twice.n) == (
        pytest.approx(once.low, abs=1e-4),
        pytest.approx(once.high, abs=1e-4),
        2000,
    )
    assert twice.standard_error == pytest.approx(once.standard_error)


def test_all_rows_alike_in_few_prompts_count_as_prompts() -> None:
    assert score_interval([1.0] * 40, list("abcd") * 10).low < share_interval(40, 0, 0).low


def test_mean_interval_by_hand() -> None:
    """The sums of centred values by cluster are -2 and 2 over 4 rows: variance 8 * 2 / 1 = 16, error 4 / 4 = 1,
    t = 12.706.
    """
    found = mean_interval([1.0, 2.0, 3.0, 4.0], ["a", "a", "b", "b"])
    assert (found.value, found.standard_error, found.n) == (2.5, 1.0, 2)
    assert found.high - found.value == pytest.approx(12.7062, abs=1e-4)


def test_an_interval_ends_where_the_values_do() -> None:
    found = mean_interval([1.0, 2.0, 3.0, 4.0], ["a", "a", "b", "b"], least=0.0)
    assert (found.value, found.standard_error, found.low) == (2.5, 1.0, 0.0)
    assert found.high - found.value == pytest.approx(12.7062, abs=1e-4)
    assert mean_interval([0.0, 8.0], ["a", "a"], all_clusters=True, least=0.0).low == 0.0
    assert math.isnan(mean_interval([1.0], least=0.0).low)


def test_an_estimate_reads_as_a_statement() -> None:
    assert f"{share_interval(7, 0, 3):.1%}" == "70.0% [39.7%, 89.2%]"


def coverage(truth: float, intervals: list[tuple[float, float]]) -> float:
    return float(np.mean([low <= truth <= high for low, high in intervals]))


@pytest.mark.parametrize(("win", "tie", "n"), [(0.5, 0.0, 100), (0.15, 0.8, 200), (0.75, 0.1, 60), (0.3, 0.3, 400)])
def test_win_rate_intervals_cover_at_their_rate(win: float, tie: float, n: int) -> None:
    rng = np.random.default_rng(1)
    counts = rng.multinomial(n, [win, tie, 1 - win - tie], size=2500)
    found = [share_interval(*c) for c in counts.tolist()]
    assert coverage(win + tie / 2, [(f.low, f.high) for f in found]) == PROMISED


@pytest.mark.parametrize("graded", [False, True])
def test_clustered_intervals_cover_where_plain_ones_do_not(graded: bool) -> None:
    """120 prompts with 4 answers each. The probability of a win depends mostly on the prompt."""
    rng = np.random.default_rng(2)
    prompts, answers = 120, 4
    names = np.repeat(np.arange(prompts), answers).tolist()
    clustered, plain = [], []
    for _ in range(1500):
        chance = np.repeat(rng.beta(0.9, 0.6, size=prompts), answers)
        scores = 0.5 * chance + 0.25 if graded else (rng.random(len(chance)) < chance).astype(float)
        found, naive = score_interval(scores, names), score_interval(scores)
        clustered.append((found.low, found.high))
        plain.append((naive.low, naive.high))
    truth = 0.5 * 0.6 + 0.25 if graded else 0.6
    assert coverage(truth, clustered) == PROMISED
    assert coverage(truth, plain) < 0.85


def test_bootstrap_intervals_cover() -> None:
    """40 prompts of 1 to 5 rows are so few that a plain percentile interval would be too narrow."""
    rng = np.random.default_rng(3)
    found = []
    for trial in range(1500):
        sizes = rng.integers(1, 6, size=40)
        shift = np.repeat(rng.normal(0, 1, size=40), sizes)
        estimate = bootstrap_mean(shift + rng.normal(0, 1, len(shift)), np.repeat(np.arange(40), sizes).tolist(),
                                  draws=500, seed=trial)  # fmt: skip
        found.append((estimate.low, estimate.high))
    assert coverage(0.0, found) == PROMISED


def test_scores_that_are_all_the_same() -> None:
    """A rounding error of the mean is no variance: the size is the number of clusters."""
    found = score_interval([0.6] * 80, [i // 2 for i in range(80)])
    alone = share_interval(0.6 * 40, 0, 0.4 * 40)
    assert found.value == pytest.approx(0.6)
    assert alone.low - 0.03 < found.low < found.high < alone.high + 0.03


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_without_ties_it_is_the_wilson_interval_of_statsmodels(level: float) -> None:
    from statsmodels.stats.proportion import proportion_confint

    for wins, losses in ((0, 9), (1, 0), (1, 8), (7, 3), (50, 50), (400, 405), (12_345, 6)):
        found = share_interval(wins, 0, losses, level=level)
        wilson = proportion_confint(wins, wins + losses, alpha=1 - level, method="wilson")
        assert (found.low, found.high) == pytest.approx(wilson, abs=1e-9)
    scores = [1.0] * 7 + [0.0] * 4
    found = score_interval(scores, level=level)
    assert (found.low, found.high) == pytest.approx(proportion_confint(7, 11, 1 - level, "wilson"), abs=1e-9)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_a_mean_is_that_of_statsmodels(level: float) -> None:
    """Alone: a t interval. In clusters: a regression on a constant with cluster-robust errors, t with G - 1 degrees."""
    from statsmodels.regression.linear_model import OLS
    from statsmodels.stats.weightstats import DescrStatsW

    rng = np.random.default_rng(4)
    values, names = rng.normal(2, 3, 60), rng.integers(0, 13, 60)
    alone = mean_interval(values, level=level)
    assert (alone.low, alone.high) == pytest.approx(DescrStatsW(values).tconfint_mean(alpha=1 - level), rel=1e-10)
    fit = OLS(values, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": names}, use_t=True)
    found = mean_interval(values, names.tolist(), level=level)
    assert (found.value, found.standard_error) == pytest.approx((fit.params[0], fit.bse[0]), rel=1e-10)
    assert (found.low, found.high) == pytest.approx(tuple(fit.conf_int(1 - level)[0]), rel=1e-10)
    share = (values > 2).astype(float)
    fit = OLS(share, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": names})
    assert score_interval(share, names.tolist()).standard_error == pytest.approx(fit.bse[0], rel=1e-10)


def test_rows_that_all_agree_have_an_interval_with_a_width() -> None:
    """None of n rows differs: Wilson's limit of the share that would is z^2 / (n + z^2) = .324 at n = 8."""
    share = 1.959964**2 / (8 + 1.959964**2)
    for value, bounds, expected in (
        (0.0, None, (0.0, share)),
        (1.0, None, (1 - share, 1.0)),
        (-0.5, None, (-0.5 - share * 0.5, -0.5 + share * 1.5)),
        (3.0, (0.0, 5.0), (3 - share * 3, 3 + share * 2)),
        (3.0, None, (-np.inf, np.inf)),
    ):
        found = bootstrap_mean([value] * 8, bounds=bounds)
        assert (found.low, found.high) == pytest.approx(expected, abs=1e-5)
        assert found.value == value
    of_prompts = bootstrap_mean([0.0, 1.0] * 8, [i // 2 for i in range(16)])
    assert of_prompts.high - of_prompts.low == pytest.approx(share, abs=1e-5), "the prompts agree, if not their rows"


@pytest.mark.parametrize("rate", [0.03, 0.17, 0.5])
def test_bootstrap_intervals_of_few_rows_cover(rate: float) -> None:
    """With a rate of .17, all 8 rows agree in 22 % of the tries: an interval without width covered in 78 %."""
    rng = np.random.default_rng(6)
    rows = (rng.random((400, 8)) < rate).astype(float)
    found = [bootstrap_mean(row, draws=300, seed=i) for i, row in enumerate(rows)]
    assert coverage(rate, [(f.low, f.high) for f in found]) >= 0.94


def test_a_mean_over_all_clusters_by_hand() -> None:
    """Clusters 0, 2 and 10, 14: variances 2 and 8 of two rows each, se² = (2 · 2 + 2 · 8) / 16 = 5/4, t with 25/17."""
    found = mean_interval([0.0, 2.0, 10.0, 14.0], list("aabb"), all_clusters=True)
    assert (found.value, found.n) == (6.5, 2)
    assert found.standard_error == pytest.approx(np.sqrt(5 / 4))
    assert found.half / found.standard_error == pytest.approx(scipy.stats.t.ppf(0.975, 400 / (16 + 256)))
    alone = mean_interval([0.0, 2.0, 10.0], list("aab"), all_clusters=True)
    assert alone == mean_interval([0.0, 2.0, 10.0], list("aab")), "one row does not show how the rows of a cluster vary"


def test_means_over_all_clusters_cover() -> None:
    """8 prompts with 4 answers each. As a sample of prompts they would have intervals that hold nearly always."""
    rng = np.random.default_rng(10)
    levels, names = rng.normal(0, 2, 8), np.repeat(np.arange(8), 4).tolist()
    rows = np.repeat(levels, 4) + rng.normal(0, 1, (1500, 32))
    for all_clusters, expected in ((True, PROMISED), (False, pytest.approx(1.0, abs=0.002))):
        found = [mean_interval(row, names, all_clusters=all_clusters) for row in rows]
        assert coverage(levels.mean(), [(f.low, f.high) for f in found]) == expected
