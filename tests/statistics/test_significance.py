"""Exact tests against p-values by hand, Holm's procedure by hand, error rates in simulation."""

from __future__ import annotations

import numpy as np
import pytest

from alignlab.statistics.significance import compare_with, holm, mcnemar, sign_test


def test_sign_test_by_hand() -> None:
    """9 of 10 differing prompts favour one run: p = 2 (1 + 10) / 1024."""
    x, y = [1] * 9 + [0] + [1] * 5, [0] * 9 + [1] + [1] * 5
    found = sign_test(x, y)
    assert (found.better, found.worse, found.equal) == (9, 1, 5)
    assert found.p_value == pytest.approx(22 / 1024)
    assert sign_test(y, x).p_value == found.p_value


def test_no_difference_is_no_evidence() -> None:
    assert sign_test([1, 0], [1, 0]).p_value == 1.0
    assert sign_test([1, 0], [0, 1]).p_value == 1.0


def test_rows_of_a_prompt_are_one_observation() -> None:
    found = sign_test([1, 1, 0, 1], [0, 0, 1, 0], ["a", "a", "a", "b"])
    assert (found.better, found.worse, found.equal) == (2, 0, 0)
    cancels = sign_test([0.1, 0.2, 0.3], [0.3, 0.2, 0.1], ["a", "a", "a"])
    assert cancels.equal == 1


def test_invalid_rows_are_out() -> None:
    found = sign_test([1, float("nan"), 1], [0, 0, float("nan")], ["a", "b", "c"])
    assert (found.better, found.worse, found.equal) == (1, 0, 0)


def test_mcnemar_counts_ties_as_not_won() -> None:
    found = mcnemar([1, 0.5, 1, 0.5], [0.5, 0, 0, 1])
    assert (found.better, found.worse, found.equal) == (2, 1, 1)
    assert found.p_value == 1.0


def test_holm_by_hand() -> None:
    """.01 x 4, .03 x 2 after .02 x 3, .04 stays at the .06 before it."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_holds_the_error_rate_of_a_sweep() -> None:
    """12 runs are as good as the base. Without correction a quarter of the sweeps shows a difference, with it at most
    5 %.
    """
    rng, plain, corrected = np.random.default_rng(0), [], []
    for _ in range(400):
        scores = {f"r{i}": (rng.random(60) < 0.5).astype(float) for i in range(13)}
        found = [sign_test(scores[f"r{i}"], scores["r0"]).p_value for i in range(1, 13)]
        plain.append(min(found) < 0.05)
        corrected.append(min(holm(found)) < 0.05)
    assert np.mean(plain) > 0.15
    assert np.mean(corrected) <= 0.06


def test_compare_with_the_base_of_a_sweep() -> None:
    rng = np.random.default_rng(1)
    base = (rng.random(300) < 0.5).astype(float)
    better = np.where(rng.random(300) < 0.3, 1.0, base)
    found = {c.run: c for c in compare_with("sft", {"sft": base, "dpo": better, "same": base.copy()})}
    assert set(found) == {"dpo", "same"}
    assert found["dpo"].difference.low > 0
    assert found["dpo"].adjusted_p < 1e-6
    assert found["dpo"].adjusted_p == pytest.approx(2 * found["dpo"].test.p_value)
    assert found["same"].adjusted_p == 1.0


@pytest.mark.parametrize("share", [0.5, 0.6, 0.9])
def test_sign_test_and_mcnemar_are_those_of_statsmodels(share: float) -> None:
    from statsmodels.stats.contingency_tables import mcnemar as exact_mcnemar
    from statsmodels.stats.descriptivestats import sign_test as their_sign_test

    rng = np.random.default_rng(2)
    x, y = (rng.choice([0.0, 0.5, 1.0], 80, p=[(1 - p) / 2, (1 - p) / 2, p]) for p in (share, 0.5))
    found = sign_test(x, y)
    statistic, p_value = their_sign_test(x - y)
    assert (found.better - found.worse) / 2 == statistic
    assert found.p_value == pytest.approx(p_value, rel=1e-10)
    won = [[int((((x > 0.5) == a) & ((y > 0.5) == b)).sum()) for b in (True, False)] for a in (True, False)]
    found = mcnemar(x, y)
    assert (found.better, found.worse, found.equal) == (won[0][1], won[1][0], won[0][0] + won[1][1])
    assert found.p_value == pytest.approx(exact_mcnemar(won, exact=True).pvalue, rel=1e-10)


def test_holm_is_that_of_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(3)
    for number in (1, 2, 7, 40):
        p_values = np.round(rng.random(number) ** 3, 2)  # with ties and zeros
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], rel=1e-12)
