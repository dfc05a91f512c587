"""Win-rates: counting, both orders, position bias, known answers (MT-Bench table 2 and section 3.4 by construction)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from alignlab.statistics.intervals import share_interval
from alignlab.statistics.winrate import paired_difference, resolve, win_rate

NAN = float("nan")


def test_counts_and_the_rate() -> None:
    found = win_rate([1, 1, 1, 0.5, 0, NAN], unjudged=2)
    assert (found.wins, found.ties, found.losses, found.invalid, found.unjudged) == (3, 1, 1, 1, 2)
    assert found.rate.value == pytest.approx(3.5 / 5)
    assert found.rate.n == 5
    assert found.orders is None
    assert found.rate.low == share_interval(3, 1, 1).low


def test_ways_to_count_ties() -> None:
    scores = [1, 1, 1, 0.5, 0.5, 0]
    assert win_rate(scores).rate.value == pytest.approx(4 / 6)
    assert win_rate(scores, ties="drop").rate.value == pytest.approx(3 / 4)
    assert win_rate(scores, ties="lose").rate.value == pytest.approx(3 / 6)
    for ties in ("half", "drop", "lose"):
        assert win_rate(scores, ties=ties).ties == 2
    with pytest.raises(ValueError, match="half, drop, lose"):
        win_rate(scores, ties="win")


def test_two_orders_that_disagree_make_a_tie() -> None:
    first, second = np.array([1, 1, 0, 1, 0.5, NAN, 1]), np.array([1, 0, 1, 0.5, 0.5, 1, NAN])
    np.testing.assert_array_equal(resolve(first, second), [1, 0.5, 0.5, 0.5, 0.5, NAN, NAN])
    found = win_rate(first, second)
    assert (found.wins, found.ties, found.losses, found.invalid) == (1, 4, 0, 2)
    assert found.orders is not None
    assert found.orders.consistency.value == pytest.approx(2 / 5)
    assert found.orders.favours_first == pytest.approx(1 / 5), "won when first, lost when second"
    assert found.orders.favours_second == pytest.approx(1 / 5)
    assert found.orders.first_rate.value == pytest.approx((1 / 2 + 1 + 0 + 0.75 + 0.5) / 5)


def test_graded_scores() -> None:
    np.testing.assert_allclose(resolve(np.array([0.9, 0.9]), np.array([0.6, 0.3])), [0.75, 0.5])
    np.testing.assert_allclose(resolve(np.array([0.9, 0.9]), np.array([0.6, 0.3]), disagreement="mean"), [0.75, 0.6])
    found = win_rate([0.9, 0.2, 0.5])
    assert (found.wins, found.ties, found.losses) == (1, 1, 1)
    assert found.rate.value == pytest.approx(1.6 / 3)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="2 scores in one order and 1 in the other"):
        win_rate([1, 0], [1])
    with pytest.raises(ValueError, match="tie or mean"):
        win_rate([1, 0], [1, 0], disagreement="first")


def test_nothing_judged() -> None:
    found = win_rate([NAN, NAN], [1, NAN], unjudged=3)
    assert np.isnan(found.rate.value)
    assert np.isnan(found.numbers()["tie_rate"])
    assert (found.invalid, found.unjudged) == (2, 3)


def test_numbers_are_flat() -> None:
    found = win_rate([1, 0.5, 0, 1], [1, 0.5, 0, 0], ["p", "p", "q", "q"]).numbers()
    assert {k: found[k] for k in ("value", "n", "tie_rate", "order_consistency")} == {
        "value": 0.5,
        "n": 2.0,
        "tie_rate": 0.5,
        "order_consistency": 0.75,
    }
    assert found["ci_low"] < 0.5 < found["ci_high"]


def biased_judge(rng: np.random.Generator, n: int, gap: float, bias: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores in both orders. The judge takes the first answer with probability `bias`, else it sees a logit gap."""

    def verdict(first: bool) -> np.ndarray:
        sees = rng.random(n) < expit(gap)
        return np.where(rng.random(n) < bias, first, sees).astype(float)

    return verdict(True), verdict(False)


@pytest.mark.parametrize("bias", [0.0, 0.2, 0.5])
def test_swapping_removes_position_bias(bias: float) -> None:
    """Claim 26: at equal quality, both orders together give 1/2 for every bias; one order alone is off by bias / 2."""
    first, second = biased_judge(np.random.default_rng(4), 20_000, 0.0, bias)
    found = win_rate(first, second)
    assert found.orders is not None
    assert found.rate.value == pytest.approx(0.5, abs=0.01)
    assert win_rate(first).rate.value == pytest.approx(0.5 + bias / 2, abs=0.012)
    assert found.orders.first_rate.value == pytest.approx(0.5 + bias / 2, abs=0.01)
    win_first, win_second = 0.5 + bias / 2, 0.5 - bias / 2
    agree = win_first * win_second + (1 - win_first) * (1 - win_second)
    assert found.orders.consistency.value == pytest.approx(agree, abs=0.012)
    assert found.orders.favours_first == pytest.approx(win_first**2, abs=0.012)


def test_bias_shrinks_a_real_difference() -> None:
    """At a logit gap of 1, the mean of both orders is (1 - bias) sigmoid(1) + bias / 2."""
    first, second = biased_judge(np.random.default_rng(5), 50_000, 1.0, 0.3)
    assert win_rate(first, second).rate.value == pytest.approx(0.7 * expit(1.0) + 0.15, abs=0.006)


def test_a_model_against_itself_holds_one_half() -> None:
    """One model gives two samples per prompt for 60 prompts; a biased and noisy judge sees both orders."""
    rng, held = np.random.default_rng(6), []
    for _ in range(1500):
        hidden = np.repeat(rng.normal(0, 1.5, 60), 2) * np.tile([1, -1], 60)
        first, second = (((hidden + shift + rng.logistic(size=120)) > 0).astype(float) for shift in (0.8, -0.8))
        rate = win_rate(first, second, np.repeat(np.arange(60), 2).tolist()).rate
        held.append(rate.low <= 0.5 <= rate.high)
    assert np.mean(held) >= 0.935


def test_the_same_prompts_cancel() -> None:
    """Two runs depend on the prompts in the same way. The paired interval is much narrower, and it has its coverage."""
    rng, covered, widths = np.random.default_rng(7), [], []
    for trial in range(500):
        ease = rng.normal(0, 2, 150)
        x, y = ((ease + gain + rng.logistic(size=150) * 0.3 > 0).astype(float) for gain in (0.4, 0.0))
        found = paired_difference(x, y, seed=trial)
        covered.append((found.low, found.high))
        widths.append((found.high - found.low) / (2 * (win_rate(x).rate.high - win_rate(x).rate.low)))
    ease = np.random.default_rng(8).normal(0, 2, 2_000_000)
    noise = np.random.default_rng(9).logistic(size=2_000_000) * 0.3
    truth = float(((ease + 0.4 + noise > 0).astype(float) - (ease + noise > 0)).mean())
    assert np.mean([low <= truth <= high for low, high in covered]) == pytest.approx(0.95, abs=0.025)
    assert np.mean(widths) < 0.4


def test_rows_that_one_run_lacks_are_out_of_the_difference() -> None:
    assert paired_difference([1, NAN, 0], [0, 1, 0], ["a", "b", "c"]).value == pytest.approx(0.5)


def test_mt_bench_pairs(shared_data: Path) -> None:
    """GPT-4's 75 pairs of phi-3 and phi-3-dpo: 46 have the same verdict in both orders, 16 + 2 change with the order,
    9 tie in one order, 2 are errors.
    """
    with gzip.open(shared_data / "mt_bench/judgments_pair_gpt-4.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    score = {"model_1": 0.0, "model_2": 1.0, "tie": 0.5, "error": NAN}
    first, second = ([score[row[f"g{game}_winner"]] for row in rows] for game in (2, 1))
    found = win_rate(first, second, [row["question_id"] for row in rows])
    assert (found.wins, found.ties, found.losses, found.invalid) == (20, 35, 18, 2)
    assert found.orders is not None
    assert found.orders.consistency.value == pytest.approx(46 / 73)
    assert (found.orders.favours_first, found.orders.favours_second) == pytest.approx((16 / 73, 2 / 73))
    assert found.rate.low < 0.5 < found.rate.high
    assert found.orders.first_rate.low > 0.5, "GPT-4 likes what it reads first"


def test_without_ties_a_rate_has_the_wilson_interval_of_statsmodels() -> None:
    from statsmodels.stats.proportion import proportion_confint

    scores = [1.0] * 31 + [0.5] * 12 + [0.0] * 20 + [NAN] * 3
    for ties, wins, rows in (("drop", 31, 51), ("lose", 31, 63)):
        rate = win_rate(scores, ties=ties, level=0.9).rate
        assert rate.value == pytest.approx(wins / rows)
        assert (rate.low, rate.high) == pytest.approx(proportion_confint(wins, rows, 0.1, "wilson"), abs=1e-9)


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_differences_of_few_prompts_cover(rate: float) -> None:
    """Of 8 prompts few differ, and often none does."""
    rng = np.random.default_rng(7)
    hits = []
    for _ in range(600):
        x, y = (rng.random(8) < rate).astype(float), (rng.random(8) < rate / 2).astype(float)
        found = paired_difference(x, y)
        hits.append(found.low <= rate / 2 <= found.high)
    assert np.mean(hits) >= 0.94


def test_a_difference_that_all_prompts_share_has_an_interval_with_a_width() -> None:
    """Wins and losses: Tango's interval of 8 ties is ± z^2 / (8 + z^2). Other scores: their range is the largest."""
    share = 1.959964**2 / (8 + 1.959964**2)
    for x, y, half in (([1.0] * 8, [1.0] * 8, share), ([5.0, 9.0] * 4, [5.0, 9.0] * 4, 4 * share)):
        found = paired_difference(x, y)
        assert (found.low, found.value, found.high) == pytest.approx((-half, 0.0, half), abs=1e-5)
    found = paired_difference([22.0] * 8, [22.0] * 8)
    assert (found.low, found.value, found.high) == (-np.inf, 0.0, np.inf)
