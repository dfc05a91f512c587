"""Rewards of methods at equal KL: by hand, and the coverage of the intervals."""

from __future__ import annotations

import numpy as np
import pytest

from alignlab.statistics.kl_budget import Setting, at_common_kls, reward_at, same_kl


def seeded(*values: float) -> dict[str, float]:
    return {str(i): value for i, value in enumerate(values)}


def test_a_reward_between_two_settings_by_hand() -> None:
    """Means: 1 nat with 2, 3 nats with 6. At 2.5 nats w = 3/4 and b = 2; seed 0 is 0.2 nats to the right twice."""
    curve = [
        Setting(seeded(3.2, 2.8), seeded(6.0, 6.0), {}),
        Setting(seeded(1.2, 0.8), seeded(2.1, 1.9), {}),
    ]
    found = reward_at(curve, 2.5)
    assert found == pytest.approx({"0": 0.25 * (2.1 - 0.4) + 0.75 * (6 - 0.4), "1": 0.25 * (1.9 + 0.4) + 0.75 * 6.4})
    assert np.mean(list(found.values())) == pytest.approx(5.0), "the mean is that of the curve of means"
    assert reward_at(curve, 3.01) == {}, "not reached"
    assert reward_at(curve, 0.5) == {}, "far below what was measured"


def test_a_kl_slightly_below_the_smallest_is_on_the_line_from_the_start() -> None:
    setting = Setting(seeded(2.0, 2.0), seeded(1.0, 2.0), seeded(0.5, 0.5))
    assert reward_at([setting], 1.8) == pytest.approx({"0": 0.5 + 0.9 * 0.5, "1": 0.5 + 0.9 * 1.5})
    assert reward_at([setting], 1.5) == {}
    assert reward_at([setting], 2.0) == pytest.approx({"0": 1.0, "1": 2.0})


def test_a_seed_that_one_setting_lacks_is_left_out_of_the_interpolation() -> None:
    curve = [Setting({"1": 1.0}, {"1": 2.0}, {}), Setting(seeded(3.0, 3.0), seeded(0.0, 6.0), {})]
    assert reward_at(curve, 2.0) == pytest.approx({"1": 4.0})


def test_methods_that_hardly_moved_or_have_no_common_kl_are_not_compared() -> None:
    def line(*kls: float) -> list[Setting]:
        return [Setting(seeded(kl, kl), seeded(kl, kl + 0.01), seeded(0.0, 0.0)) for kl in kls]

    own = {"a": "a", "b": "b"}
    assert [b.kl for b in at_common_kls({"a": line(1, 4), "b": line(0.5, 2)}, own).budgets] == [1.0, 2.0]
    assert [b.kl for b in at_common_kls({"a": line(2.2, 4), "b": line(0.5, 2)}, own).budgets] == [2.0]
    assert not at_common_kls({"a": line(3, 4), "b": line(0.5, 2)}, own).budgets
    assert not at_common_kls({"a": line(0.001, 0.009), "b": line(0.001, 0.009)}, own).budgets
    assert not at_common_kls({"a": line(1, 4), "b": [Setting({}, {}, {})]}, own).budgets


def test_variants_are_one_curve_if_none_of_them_reaches_a_common_kl_alone() -> None:
    """Settings of one learning rate have about one KL: at 2 nats `a` is between its two rates, half way from 1 to 3."""

    def line(*kls: float) -> list[Setting]:
        return [Setting(seeded(kl, kl), seeded(kl, kl + 0.01), seeded(0.0, 0.0)) for kl in kls]

    curves = {"a, lr 1": line(0.9, 1.0), "a, lr 2": line(3.0, 3.1), "b, lr 1": line(1.9, 2.0)}
    found = at_common_kls(curves, {"a, lr 1": "a", "a, lr 2": "a", "b, lr 1": "b"})
    assert [budget.kl for budget in found.budgets] == [2.0]
    assert found.budgets[0].rewards["a"].value == pytest.approx(2.005)
    assert list(found.budgets[0].rewards) == ["a", "b"]


def test_a_method_that_is_not_better_than_the_start_is_not_the_best() -> None:
    flat = [Setting(seeded(kl, kl), seeded(0.49, 0.52), seeded(0.5, 0.5)) for kl in (1.0, 2.0)]
    falls = [Setting(seeded(kl, kl), seeded(0.3, 0.31), seeded(0.5, 0.5)) for kl in (1.0, 2.0)]
    (budget,) = at_common_kls({"flat": flat, "falls": falls}, {"flat": "flat", "falls": "falls"}).budgets[-1:]
    assert budget.best is None
    assert budget.gains["falls"].high < 0


@pytest.mark.parametrize("seeds", [3, 8])
def test_intervals_at_a_kl_cover(seeds: int) -> None:
    """Two strengths on a line of slope 0.5 through (2, 1); KL and reward of a seed vary together."""
    rng = np.random.default_rng(seeds)
    hits = []
    for _ in range(2000):
        settings = []
        for kl in (1.0, 3.0):
            moved, luck = rng.normal(0, 0.15, seeds), rng.normal(0, 0.1, seeds)
            settings.append(Setting(seeded(*(kl + moved)), seeded(*(kl / 2 + moved * 0.8 + luck)), {}))
        found = list(reward_at(settings, 2.2).values())
        half = {3: 4.302653, 8: 2.364624}[seeds] * np.std(found, ddof=1) / np.sqrt(seeds)
        hits.append(abs(np.mean(found) - 1.1) <= half)
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


def test_seeds_that_two_neighbours_share_do_not_extrapolate() -> None:
    """All seeds of the second setting have a mean KL of 6 nats, but those that the first has reach 2 nats only."""
    curve = [
        Setting(seeded(1.0, 1.0), seeded(1.0, 1.1), {}),
        Setting(seeded(2.0, 2.0, 10.0, 10.0), seeded(2.0, 2.1, 3.0, 3.1), {}),
    ]
    assert reward_at(curve, 1.5) == pytest.approx({"0": 1.5, "1": 1.6})
    assert reward_at(curve, 5.0) == {}


def test_methods_closer_than_the_least_difference_are_tied() -> None:
    """Every seed of the second method is 1e-6 better or a little more."""
    one = [Setting(seeded(kl, kl, kl), seeded(kl, kl + 0.1, kl + 0.2), {}) for kl in (1.0, 2.0)]
    two = [Setting(s.kl, seeded(*(r + 1e-7 * (10 + i) for i, r in enumerate(s.reward.values()))), {}) for s in one]
    curves = {"a": one, "b": two}
    for least, tied in ((0.0, False), (5e-4, True)):
        found = at_common_kls(curves, {"a": "a", "b": "b"}, least=least)
        assert [budget.comparisons["a"].tied for budget in found.budgets] == [tied] * 2


def test_a_line_between_distant_settings_is_known() -> None:
    def curve(*kls: float) -> list[Setting]:
        return [Setting(seeded(kl, kl), seeded(kl**0.5, kl**0.5), {}) for kl in kls]

    found = at_common_kls({"a": curve(0.1, 100.0), "b": curve(1.0, 4.0, 16.0)}, {"a": "a", "b": "b"})
    assert [(budget.kl, budget.sparse) for budget in found.budgets] == [(kl, {"a": (0.1, 100.0)}) for kl in (4, 8, 16)]


@pytest.mark.parametrize(("one", "other", "same"), [(1, 1.25, True), (1, 1.3, False), (-1, 1, False), (-1, -1, True)])
def test_which_kls_are_equal(one: float, other: float, same: bool) -> None:
    assert same_kl(one, other) is same
    assert same_kl(other, one) is same
