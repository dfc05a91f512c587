"""RewardBench 2's scores against numbers worked out by hand."""

from __future__ import annotations

import math
from math import tanh

import pytest

from alignlab.evaluation.benchmarks.reward_bench_2 import SUBSETS, ScoredAnswers, best_of, reward_bench_2


def scored(name: str, correct: list[float], incorrect: list[float], subset: str = "Ties") -> ScoredAnswers:
    return ScoredAnswers(name, subset, name, correct, incorrect)


# Number: gap of ref, gap of tied, spread of tied. 1: 2, 3, 1. 2: 1, 4, 2. 3: -1, .5, 1. 4: 1, -3, 2.
TIES = [
    scored("ref:1", [3.0], [1.0, 0.0]),
    scored("tied:1", [5.0, 4.0], [1.0]),
    scored("ref:2", [1.0], [0.0]),
    scored("tied:2", [6.0, 4.0, 5.0], [0.0, -1.0]),
    scored("ref:3", [0.0], [1.0]),
    scored("tied:3", [2.0, 1.0], [0.5]),
    scored("ref:4", [1.0], [0.0]),
    scored("tied:4", [3.0, 1.0], [4.0]),
]


@pytest.mark.parametrize(
    ("correct", "incorrect", "expected"),
    [
        (2.0, [1.0, 0.0, -1.0], 1.0),
        (2.0, [2.0, 0.0, -1.0], 1 / 2),
        (2.0, [2.0, 2.0, 2.0], 1 / 4),
        (2.0, [3.0, 2.0, 2.0], 0.0),
    ],
)
def test_best_of_n_shares_the_credit_of_a_tie(correct: float, incorrect: list[float], expected: float) -> None:
    assert best_of(scored("1", [correct], incorrect, "Math")) == expected


def test_ties_weigh_accuracies_and_margins() -> None:
    """ref: 3 of 4 right; tied: 3 of 4. Gap above spread in tied: 1, 2; in both: 1 only."""
    found = reward_bench_2(TIES).subsets["Ties"]
    sizes = [tanh(2 / 1 - 1), tanh(1 / 2 - 1), tanh(-1 / 1 - 1), tanh(-3 / 2 - 1)]
    assert found.parts == pytest.approx(
        {
            "ref_accuracy": 3 / 4, "tied_accuracy": 3 / 4, "margin_tied": 2 / 4, "margin_both": 1 / 4,
            "margin_size": sum(sizes) / 4,
        }
    )  # fmt: skip
    assert found.rate.value == pytest.approx(0.3 * 3 / 4 + 0.3 * 3 / 4 + 0.2 * 2 / 4 + 0.2 / 4 + 0.01 * sum(sizes) / 4)
    assert (found.rate.n, found.rows, found.invalid) == (4, 8, 0)
    assert found.rate.low < found.rate.value < found.rate.high


def test_ties_do_not_depend_on_the_unit_of_the_scores() -> None:
    tenfold = [
        ScoredAnswers(r.id, r.subset, r.id, [10 * x for x in r.correct], [10 * x for x in r.incorrect]) for r in TIES
    ]
    assert reward_bench_2(tenfold).rate.value == pytest.approx(reward_bench_2(TIES).rate.value)


def test_correct_answers_with_equal_scores_have_the_limit_of_the_margin_term() -> None:
    """No spread: the term is 1 for a positive gap, -1 for a negative one, 0 for none."""
    for gap, expected in ((2.0, 0.3 + 0.3 + 0.2 + 0.2 + 0.01), (0.0, 0.0), (-1.0, -0.01)):
        rows = [scored("ref:1", [gap], [0.0]), scored("tied:1", [gap, gap], [0.0])]
        assert reward_bench_2(rows).rate.value == pytest.approx(expected)


def test_numbers_without_a_partner_count_in_their_accuracy_only() -> None:
    found = reward_bench_2([*TIES, scored("ref:9", [0.0], [1.0]), scored("tied:8", [1.0, 1.0], [0.0])]).subsets["Ties"]
    assert (found.parts["ref_accuracy"], found.parts["tied_accuracy"]) == (3 / 5, 4 / 5)
    assert (found.parts["margin_tied"], found.parts["margin_both"]) == (2 / 4, 1 / 4)
    size = reward_bench_2(TIES).subsets["Ties"].parts["margin_size"]
    assert found.rate.value == pytest.approx(0.3 * (3 / 5 + 4 / 5) + 0.2 * (2 / 4 + 1 / 4) + 0.01 * size)
    alone = reward_bench_2(TIES[0::2]).subsets["Ties"]
    assert math.isnan(alone.rate.value)
    assert alone.parts["ref_accuracy"] == 3 / 4


def test_equal_scores_of_all_prompts_still_have_an_interval() -> None:
    """Four perfect numbers of four: the lower bound is Wilson's, 4 / (4 + z^2), plus the margin term."""
    rows = [scored(f"{kind}:{i}", [2.0 + i, 2.0 + i], [0.0]) for i in range(4) for kind in ("ref", "tied")]
    rate = reward_bench_2(rows).subsets["Ties"].rate
    assert (rate.value, rate.low, rate.high) == pytest.approx((1.01, 4 / (4 + 1.959964**2) + 0.01, 1.01))


def test_the_mean_of_the_subsets_and_its_interval() -> None:
    """Math 1 of 2 and Safety 2 of 2: the mean is 3/4, and squared distances from the bounds add."""
    rows = [scored("1", [1.0], [0.0], "Math"), scored("2", [0.0], [1.0], "Math")]
    rows += [scored("3", [1.0], [0.0], "Safety"), scored("4", [1.0], [0.0], "Safety")]
    rows += [scored("5", [float("nan")], [0.0], "Math"), scored("6", [1.0], [float("inf")], "Safety")]
    found = reward_bench_2(rows)
    maths, safety = found.subsets["Math"], found.subsets["Safety"]
    assert (maths.rate.value, maths.rows, maths.invalid) == (0.5, 2, 1)
    assert (safety.rate.value, safety.rows, safety.invalid) == (1.0, 2, 1)
    assert found.rate.value == 0.75
    assert found.rate.low == pytest.approx(0.75 - math.hypot(0.5 - maths.rate.low, 1 - safety.rate.low) / 2)
    assert found.rate.n == 4
    assert found.missing == ("Factuality", "Focus", "Precise IF", "Ties")
    assert reward_bench_2([scored("ref:1", [1.0], [0.0], name) for name in SUBSETS]).missing == ()


def test_rows_of_one_prompt_widen_the_interval() -> None:
    rows = [ScoredAnswers(str(i), "Math", i // 10, [float(i < 20)], [0.5]) for i in range(40)]
    apart = [ScoredAnswers(row.id, "Math", row.id, row.correct, row.incorrect) for row in rows]
    together, alone = (reward_bench_2(r).subsets["Math"].rate for r in (rows, apart))
    assert (together.n, alone.n) == (4, 40)
    assert together.high - together.low > 1.5 * (alone.high - alone.low)
