"""Which metric compares settings, which settings are compared, and which can be called best."""

from __future__ import annotations

import math
import re
from typing import Any

import pandas as pd
import pytest

from alignlab.reports.seeds_table import conclusions, settings_frame, settings_markdown, settings_of
from alignlab.statistics.comparison import (
    better_than_start,
    common_metric,
    equal_kl,
    hardly_moved,
    strengths_to_add,
)


def seeded(*values: float) -> dict[str, float]:
    return {str(i): value for i, value in enumerate(values)}


def report_of(
    settings: dict[tuple[str, ...], list[dict[str, float]]], axes: list[str], **sweep: Any
) -> tuple[str, str]:
    """(table, conclusions) for settings, given the summaries of their seeds."""
    rows = [
        {**dict(zip(axes, values, strict=True)), "seed": str(seed), "run": "r", "status": "done", **summary}
        for values, summaries in settings.items()
        for seed, summary in enumerate(summaries)
    ]
    found = settings_of(pd.DataFrame(rows), axes, ["seed"], sweep)
    assert len(settings_frame(found)) == len(settings)
    return settings_markdown(found), "\n".join(conclusions(found, sweep.get("metric", "")))


def names_a_best(text: str) -> bool:
    return (
        re.search(r"^(At a KL of .*, t|T)he best( of those that can be compared)? is ", text, re.MULTILINE) is not None
    )


def lab(kl: float, gap: float, reward: float, spread: float = 0.01) -> list[dict[str, float]]:
    """Two seeds of a lab setting with these means; the start has reward 0.5."""
    return [
        {
            "exact/kl": kl * (1 + side * spread),
            "exact/frontier_gap": gap + side * spread,
            "exact/reward": reward + side * spread,
            "exact/reward_reference": 0.5,
        }
        for side in (-1, 1)
    ]


# From `make demo`: three strengths of DPO, each with its own KL (nats).
DEMO = {("0.05",): lab(4.364, 0.71, 1.7), ("0.1",): lab(3.676, 0.466, 1.81), ("1.0",): lab(0.381, 0.104, 0.759)}


def test_a_small_gap_at_a_small_kl_is_not_the_best() -> None:
    """beta 1.0 has the smallest gap, but a tenth of the others' KL. The best of the two with equal KL is beta 0.1."""
    table, text = report_of(DEMO, ["objective.beta"])
    assert "compared by gap (lower is better), but only with settings of equal KL (within a factor of 1.25)" in text
    assert "Not compared, because no other setting has the same KL: beta 1.0 (0.38 nats)." in text
    assert names_a_best(text)
    assert "At a KL of 3.68 to 4.36 nats, the best is beta 0.1. No other is tied with it" in text
    assert "best is beta 1.0" not in text
    (row,) = [line for line in table.splitlines() if line.startswith("| 1.0 |")]
    assert row.endswith("| 0.104 ± 0.127 |  |  |  |  |")


def test_without_a_common_kl_none_is_best_and_strengths_to_add_are_named() -> None:
    settings = {
        ("dpo", "0.1"): lab(4.0, 0.7, 1.7),
        ("dpo", "1.0"): lab(2.0, 0.1, 0.7),
        ("ipo", "0.1"): lab(1.5, 0.3, 1.6),
        ("ipo", "1.0"): lab(0.1, 0.05, 0.6),
    }
    table, text = report_of(settings, ["objective", "strength"])
    ranges = "objective dpo 2 to 4 nats; objective ipo 0.1 to 1.5 nats"
    assert f"The methods have no common KL. So none is called best. KLs of their settings: {ranges}." in text
    assert "To have settings of all methods near one KL, 1.7 nats, add values of strength: objective dpo" in text
    assert "strength: objective dpo above 1; " in text
    assert text.endswith("objective ipo below 0.1.")
    assert not names_a_best(text)
    assert "difference to the best" not in table


def test_objectives_are_compared_at_the_kls_that_all_of_them_reached() -> None:
    """At 2.5 nats dpo is half way from 0.7 at 1 nat to 1.7 at 4 nats: 1.2; ipo was measured there."""
    settings = {
        ("dpo", "0.1"): lab(4.0, 0.7, 1.7),
        ("dpo", "1.0"): lab(1.0, 0.1, 0.7),
        ("ipo", "0.1"): lab(2.5, 0.3, 1.6),
        ("ipo", "1.0"): lab(0.1, 0.05, 0.6),
    }
    table, text = report_of(settings, ["objective", "strength"])
    assert "compared by exact reward at KLs that all of them reached. Between the settings of a method, values" in text
    assert "KLs of the settings: objective dpo 1 to 4 nats; objective ipo 0.1 to 2.5 nats" in text
    assert "At a KL of 2.5 nats, the best is objective ipo. No other is tied with it" in text
    assert "| 2.5 | objective dpo | 2 | 1.200 ± " in table
    assert "| 2.5 | objective ipo | 2 | 1.600 ± 0.005 |" in table, "its seeds differ along the curve"
    assert "At a KL of 0.625" not in text, "dpo was not measured there"
    assert "Ties are judged from 2 seeds" in text


def test_a_method_without_results_does_not_keep_others_from_being_compared() -> None:
    of = {("dpo", "0.1"): lab(4.0, 0.7, 1.7), ("dpo", "1.0"): lab(1.0, 0.1, 0.7), ("slic", "1.0"): [{}, {}]}
    _, text = report_of(of, ["objective", "strength"])
    assert "Nothing is compared, because only objective dpo has results" in text
    assert not names_a_best(text)
    more = {**of, ("ipo", "0.1"): lab(2.5, 0.3, 1.6), ("ipo", "1.0"): lab(0.1, 0.05, 0.6)}
    _, text = report_of(more, ["objective", "strength"])
    assert "At a KL of 2.5 nats, the best is objective ipo. No other is tied with it" in text


def sampled(kl: float, score: float, **more: float) -> list[dict[str, float]]:
    return [
        {
            "eval/kl_ref/sequence_k1": kl + side / 100,
            "eval/score/polite/mean": score + side / 100,
            "eval/score/polite/reference": 0.2,
            **more,
        }
        for side in (-1, 1)
    ]


def test_sampled_rewards_are_compared_at_equal_kl_too() -> None:
    settings = {
        ("dpo", "0.1"): sampled(4.0, 0.8),
        ("dpo", "1.0"): sampled(1.0, 0.5),
        ("kto", "0.1"): sampled(3.0, 0.3),
        ("kto", "1.0"): sampled(0.2, 0.25),
    }
    table, text = report_of(settings, ["objective", "strength"])
    assert "At a KL of 3 nats, the best is objective dpo. No other is tied with it" in text
    assert "| 3 | objective dpo | 2 | 0.700 ± " in table
    assert table.startswith("| objective | strength | seeds | sampled KL (nats) | score by polite |")
    one_strength = {key: rows for key, rows in settings.items() if key[1] == "0.1"}
    _, text = report_of(one_strength, ["objective", "strength"])
    assert "No two settings have the same KL, so none is called best" in text


def test_win_rates_are_rewards_whose_start_is_one_half() -> None:
    settings = {
        (name, strength): [
            {
                "eval/kl_ref/sequence_k1": kl + seed / 100,
                "eval/winrate/llm": rate + seed / 100,
                "eval/winrate/llm/reference": 0.5,
            }
            for seed in range(3)
        ]
        for name, strength, kl, rate in (
            ("dpo", "0.1", 2, 0.7),
            ("dpo", "1", 1, 0.6),
            ("ipo", "0.1", 2, 0.4),
            ("ipo", "1", 1, 0.45),
        )
    }
    _, text = report_of(settings, ["objective", "strength"])
    assert "compared by win-rate by llm at KLs that all of them reached" in text
    assert (
        "this one is not known to be better than the start (95 % interval), so it is not called best: objective ipo."
        in text
    )
    assert "nats, the best is objective dpo. No other is tied with it" in text


def test_learning_rates_are_variants_of_an_objective() -> None:
    """dpo reached 2 nats with one of its rates; the rate that did not is not compared there."""
    settings = {
        ("dpo", "1e-6", "0.1"): lab(0.05, 0.1, 0.52),
        ("dpo", "1e-6", "1.0"): lab(0.02, 0.1, 0.51),
        ("dpo", "1e-4", "0.1"): lab(3.0, 0.1, 1.6),
        ("dpo", "1e-4", "1.0"): lab(1.0, 0.1, 1.0),
        ("ipo", "1e-4", "0.1"): lab(2.0, 0.1, 1.0),
        ("ipo", "1e-4", "1.0"): lab(0.9, 0.1, 0.8),
    }
    _, text = report_of(settings, ["objective", "optim.lr", "strength"])
    assert "At a KL of 2 nats, the best is objective dpo, lr 1e-4. No other is tied with it" in text
    assert "At a KL of 2 nats, the best is objective dpo, lr 1e-4." in text
    assert "lr 1e-6" not in text.split("At a KL of 2 nats")[1]
    assert "Each learning rate is a variant of a method" in text


def test_the_kl_stands_beside_a_comparison_of_accuracies() -> None:
    settings = {("0.1",): pairs(0.7, 0.71), ("1.0",): pairs(0.6, 0.61)}
    _, text = report_of(settings, ["objective.beta"])
    assert "The KL to the reference is not known for all settings" in text
    for other, differ in ((3.0, True), (2.2, False)):  # 2.2 nats is within the factor of 1.25
        kls = {("0.1",): 2.0, ("1.0",): other}
        with_kl = {
            key: [{**row, "eval/kl_ref/sequence_k1": kls[key]} for row in rows] for key, rows in settings.items()
        }
        _, text = report_of(with_kl, ["objective.beta"])
        assert ("does not say which is best at equal KL: beta 0.1 2 nats" in text) is differ


def test_accuracies_on_few_pairs_are_tied_though_the_seeds_agree() -> None:
    """One more pair of 64, with every seed: by the seeds alone the difference would be certain."""
    settings = {("a",): pairs(37 / 64, 38 / 64, 37 / 64, n=64), ("b",): pairs(36 / 64, 37 / 64, 36 / 64, n=64)}
    settings = {
        key: [{**row, "eval/pairs/accuracy": row["eval/pairs/accuracy"] + 0.2} for row in rows]
        for key, rows in settings.items()
    }
    _, text = report_of(settings, ["x"])
    assert "The best is x a, tied with x b. With 95 % probability, the truly best is one of these." in text
    many = {key: [{**row, "eval/pairs/n": 64000} for row in rows] for key, rows in settings.items()}
    _, text = report_of(many, ["x"])
    assert "The best is x a. No other is tied with it" in text


def test_an_accuracy_whose_seeds_agree_has_an_interval_over_its_pairs() -> None:
    """Two seeds with 34 of 64 pairs: 0.98 / sqrt(64) is half of the interval. The loss at the start has none."""
    seed = {"eval/pairs/accuracy": 34 / 64, "eval/pairs/n": 64.0, "start/loss": 0.5}
    table, text = report_of({("0.1",): [seed, seed], ("0.3",): [seed, {**seed, "eval/pairs/accuracy": 0.5}]}, ["beta"])
    assert "0.531 ± 0.123" in table
    assert "0.5000 ± 0.0000" in table
    assert "If all seeds of an accuracy agree, the interval is over its held-out rows." in text
    _, text = report_of({("0.1",): [seed, {**seed, "eval/pairs/accuracy": 0.5}]}, ["beta"])
    assert "seeds of an accuracy agree" not in text


def test_the_chance_that_the_best_wins_and_the_interquartile_mean_are_columns() -> None:
    """a beats b in 14 of 16 pairs of runs; of four values the smallest and the largest are left out."""
    settings = {("a",): pairs(0.7, 0.71, 0.72, 0.76), ("b",): pairs(0.6, 0.61, 0.62, 0.715)}
    table, _ = report_of(settings, ["x"])
    head, _, first, second = table.splitlines()
    assert "| IQM of held-out pair accuracy | difference to the best | chance that the best wins |" in head
    assert "| 0.715 | best |  |" in first
    assert "| 0.615 | " in second
    assert " | 0.88 | " in second


def test_a_gap_that_the_user_chose_ranks_all_and_marks_settings_that_hardly_moved() -> None:
    _, text = report_of(DEMO, ["objective.beta"], metric="exact/frontier_gap")
    assert "The best is beta 1.0. No other is tied with it" in text
    assert "Hardly moved from the start (less than a quarter of the largest distance): beta 1.0 (0.38 nats)" in text


def test_a_policy_that_did_not_move_is_not_the_best_at_equal_kl() -> None:
    """Neither setting has moved; the gain in reward of one is within the spread of its seeds."""
    _, text = report_of({("a",): lab(1e-6, 0.0, 0.5), ("b",): lab(1e-6, 0.1, 0.501)}, ["x"])
    assert (
        "These are not known to be better than the start (95 % interval), so they are not called best: x a; x b."
        in text
    )
    assert "No setting is known to be better than the start, so none is called best." in text
    assert not names_a_best(text)


def pairs(*accuracies: float, n: int = 400, **more: float) -> list[dict[str, float]]:
    return [{"eval/pairs/accuracy": a, "eval/pairs/n": n, "eval/loss": 0.5, **more} for a in accuracies]


def test_objectives_are_compared_by_a_metric_that_all_of_them_have() -> None:
    """KTO has no accuracy of rewards, and its loss is not comparable. SFT does not improve and is never the best."""
    settings = {
        ("dpo",): pairs(0.70, 0.71, **{"eval/rewards/accuracies": 0.7}),
        ("kto",): pairs(0.66, 0.67),
        ("sft",): pairs(0.50, 0.505),
    }
    table, text = report_of(settings, ["objective"])
    assert "compared by held-out pair accuracy (higher is better). Differences" in text
    assert (
        "This one is not known to be better than the start (95 % interval), so it is not called best: objective sft."
        in text
    )
    assert "The best is objective dpo. No other is tied with it" in text
    assert "unknown" not in table + text
    assert [line.split(" | ")[1] for line in table.splitlines()[2:]] == ["2", "2", "2"]


def test_a_setting_that_is_not_better_than_the_start_is_not_among_the_best() -> None:
    _, text = report_of({("a",): pairs(0.60, 0.61), ("b",): pairs(0.52, 0.64)}, ["x"])
    assert "The best is x a. No other that is better than the start is tied with it" in text


def test_without_a_common_metric_the_missing_ones_are_named() -> None:
    settings = {("dpo",): pairs(0.7, 0.71), ("reward_model",): [{"eval/accuracy": 0.8, "eval/loss": 0.4}] * 2}
    table, text = report_of(settings, ["objective"])
    assert "no metric is known and comparable for all of them" in text
    assert "held-out pair accuracy is missing for objective reward_model" in text
    assert "eval accuracy of rewards is missing for objective dpo" in text
    assert "type: sweep.metric=<name> sweep.better=lower|higher" in text
    assert "best" not in table
    assert not names_a_best(text)


@pytest.mark.parametrize(
    ("axes", "metric"),
    [(["optim.lr"], "eval/loss"), (["objective"], None), (["strength"], None), (["objective.beta"], None)],
)
def test_losses_are_compared_within_one_objective(axes: list[str], metric: str | None) -> None:
    assert common_metric({"a": {"eval/loss": seeded(1.0)}, "b": {"eval/loss": seeded(2.0)}}, axes) == metric


def test_a_setting_without_results_does_not_decide_what_is_compared() -> None:
    values = {"a": {"eval/pairs/accuracy": seeded(0.6)}, "failed": {"eval/pairs/accuracy": {}}}
    assert common_metric(values, ["objective"]) == "eval/pairs/accuracy"
    assert common_metric({"failed": {}}, ["objective"]) is None
    assert common_metric({}, []) is None


def test_better_than_the_start() -> None:
    """By hand: 0.55 and 0.56 are 0.555 ± 12.7 * 0.00707 / √2 = 0.0635, so 0.4915 at the low end."""

    def by_pairs(n: float, *accuracies: float) -> bool | None:
        return better_than_start(
            {"eval/pairs/accuracy": seeded(*accuracies), "eval/pairs/n": seeded(n, n)}, "eval/pairs/accuracy"
        )

    assert by_pairs(10_000, 0.55, 0.56) is False
    assert by_pairs(10_000, 0.55, 0.551) is True
    assert by_pairs(100, 0.55, 0.551) is False, "100 pairs give a share to ± 0.098"
    assert by_pairs(10_000, 0.45, 0.451) is False
    assert by_pairs(10_000, 0.55) is None
    loss = {"eval/loss": seeded(0.5, 0.51), "start/loss": seeded(0.69, 0.70)}
    assert better_than_start(loss, "eval/loss") is True
    assert better_than_start({**loss, "start/loss": seeded(0.5, 0.51)}, "eval/loss") is False
    assert better_than_start(loss, "eval/rewards/margins") is None, "the value at the start is not known"


def test_an_area_under_the_curve_must_exceed_chance_by_more_than_its_error_over_answers() -> None:
    """With 50 good and 50 bad answers, 1/2 has a 95 % interval of ± 1.96 √(101 / 30000) = .114."""

    def auc(value: float, n: float) -> bool | None:
        of = {"eval/labels/auc": seeded(value, value + 0.001), "eval/labels/n_good": seeded(n, n)}
        return better_than_start({**of, "eval/labels/n_bad": seeded(n, n)}, "eval/labels/auc")

    assert (auc(0.613, 50), auc(0.614, 50), auc(0.55, 5000)) == (False, True, True)


def test_labels_and_pairs_are_never_compared_with_each_other() -> None:
    auc = {"eval/labels/auc": 0.7, "eval/labels/n_good": 900, "eval/labels/n_bad": 900, "eval/labels/distance": 1.0}
    table, text = report_of({("kto",): [auc, auc], ("dpo",): pairs(0.7, 0.71)}, ["objective"])
    assert (
        "held-out pair accuracy is missing for objective kto. held-out AUC of labels is missing for objective dpo"
        in text
    )
    assert "| held-out pair accuracy | held-out AUC of labels |" in table
    assert not names_a_best(text)


def test_equal_kl() -> None:
    kl = {"a": 4.0, "b": 0.5, "c": 3.3, "d": 4.1, "e": 0.6, "f": math.nan}
    settings = {name: {"exact/kl": {} if math.isnan(value) else seeded(value, value)} for name, value in kl.items()}
    assert equal_kl(settings) == [["b", "e"], ["c", "a", "d"]]
    assert equal_kl({"a": {"exact/kl": seeded(1.0)}, "b": {"exact/kl": seeded(1.26)}}) == [["a"], ["b"]]


def test_intervals_hold_for_all_groups_at_once() -> None:
    """Two pairs of settings make as many comparisons as three settings with one KL: the width is the same."""
    pair = {("a",): lab(1.0, 0.1, 1.0), ("b",): lab(1.0, 0.2, 1.0)}
    both = {**pair, ("c",): lab(3.0, 0.1, 1.0), ("d",): lab(3.0, 0.2, 1.0)}
    for settings, ends in ((pair, 1), (both, 2)):
        rows = [
            {"x": values[0], "seed": str(i), "run": "r", "status": "done", **one, "exact/frontier_gap": gap}
            for values, summaries in settings.items()
            for i, (one, gap) in enumerate(zip(summaries, (0.1, 0.1 + 0.1 * (values[0] in "bd")), strict=True))
        ]
        found = settings_of(pd.DataFrame(rows), ["x"], ["seed"], {})
        difference = found.compared.comparisons["x b"].difference
        assert difference is not None
        assert difference.half == pytest.approx({1: 12.7062, 2: 25.4517}[ends] * 0.05, rel=1e-4)


def test_settings_that_hardly_moved_are_found_by_a_movement_that_all_have() -> None:
    margins = {"a": {"eval/pairs/margin": seeded(4.0, 6.0)}, "b": {"eval/pairs/margin": seeded(-1.0, -1.4)}}
    assert hardly_moved(margins) == {"b": pytest.approx(1.2)}
    assert hardly_moved({**margins, "c": {"eval/loss": seeded(1.0)}}) == {}


def moved(distance: float, *accuracies: float) -> list[dict[str, float]]:
    return pairs(*accuracies, **{"eval/pairs/distance": distance, "eval/pairs/margin": distance})


def test_a_policy_that_hardly_moved_is_not_the_best() -> None:
    """From a sweep over learning rates: the accuracy sees only signs, and one tiny step sets them."""
    settings = {
        ("1e-7",): moved(0.001, 0.906, 0.906),
        ("1e-5",): moved(0.112, 0.91, 0.91),
        ("3e-4",): moved(2.8, 0.9, 0.9),
    }
    table, text = report_of(settings, ["optim.lr"])
    still = "lr 1e-7 (0.001 nats); lr 1e-5 (0.11 nats)"
    assert (
        f"Hardly moved from the start (less than a quarter of the largest distance), so not called best: {still}"
        in text
    )
    assert "The best is lr 3e-4. No other that moved and is better than the start is tied with it" in text
    assert [row.split(" | ")[-4] for row in table.splitlines()[-3:]][-1] == "best"
    _, text = report_of(settings, ["optim.lr"], metric="eval/pairs/accuracy")
    assert f"Hardly moved from the start (less than a quarter of the largest distance): {still}" in text
    assert "The best is lr 1e-5, tied with lr 1e-7; lr 3e-4." in text, "400 pairs do not tell 0.91 from 0.9"


def test_if_only_settings_that_hardly_moved_are_better_than_the_start_none_is_best() -> None:
    """A setting without results does not change this."""
    settings = {("1e-7",): moved(0.001, 0.906, 0.906), ("1.0",): moved(90.0, 0.5, 0.5), ("lost",): [{}, {}]}
    table, text = report_of(settings, ["optim.lr"])
    assert "so not called best: lr 1e-7 (0.001 nats)" in text
    assert "No setting that moved is known to be better than the start, so none is called best." in text
    assert not names_a_best(text)
    assert "difference to the best" not in table


def test_if_no_policy_moved_none_is_best() -> None:
    settings = {("1e-7",): moved(0.001, 0.906, 0.906), ("2e-7",): moved(0.002, 0.91, 0.91)}
    _, text = report_of(settings, ["optim.lr"])
    names = "lr 1e-7 (0.001 nats); lr 2e-7 (0.002 nats)"
    assert f"Hardly moved from the start (less than 0.01 nats per pair), so not called best: {names}" in text
    assert "none is called best" in text
    assert not names_a_best(text)


def test_the_best_at_a_small_kl_is_named_beside_the_best_at_a_large_one() -> None:
    """Within each group all moved equally far, but the settings with the small KL are still named."""
    settings = {
        ("a",): lab(0.4, 0.1, 0.8),
        ("b",): lab(0.4, 0.2, 0.7),
        ("c",): lab(4.0, 0.3, 1.7),
        ("d",): lab(4.0, 0.5, 1.5),
    }
    _, text = report_of(settings, ["x"])
    assert (
        "Hardly moved from the start (less than a quarter of the largest distance): x a (0.4 nats); x b (0.4 nats)"
        in text
    )
    assert "At a KL of 0.40 nats, the best is x a." in text
    assert "At a KL of 4.00 nats, the best is x c." in text


def test_pairs_that_cancel_in_the_margin_have_moved() -> None:
    far = {"eval/pairs/margin": seeded(0.01), "eval/pairs/distance": seeded(5.0), "eval/objective/kl": seeded(-0.1)}
    near = {"eval/pairs/margin": seeded(1.0), "eval/pairs/distance": seeded(1.0), "eval/objective/kl": seeded(9.0)}
    assert hardly_moved({"far": far, "near": near}) == {"near": 1.0}


def test_strengths_to_add() -> None:
    kl = {("dpo", "0.1"): 4.0, ("dpo", "1.0"): 0.4, ("ipo", "0.1"): 0.2}
    advice = strengths_to_add(["objective", "strength"], kl)
    assert advice == (
        "to have settings of all methods near one KL, 0.28 nats, add values of strength: objective dpo above 1; "
        "objective ipo below 0.1"
    )
    assert strengths_to_add(["objective"], {("dpo",): 1.0, ("ipo",): 2.0}) == ""
    assert strengths_to_add(["objective.beta"], {("0.1",): 1.0, ("1.0",): 2.0}) == "", "one method, one curve"
    assert strengths_to_add(["objective.beta", "optim.lr"], {("0.1", "1e-3"): 1.0, ("0.1", "1e-4"): 2.0}) != ""
