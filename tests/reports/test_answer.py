"""The answer of a sweep: what is said, and when nothing can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignlab.evaluation.examples import Examples
from alignlab.evaluation.summary import flat, summarise
from alignlab.integrity import write_sealed
from alignlab.reports.answer import answers, answers_of
from alignlab.reports.collect import read_sweep
from alignlab.reports.page.content import settings_table
from alignlab.reports.seeds_table import conclusions
from alignlab.reports.sweep import settings_sentences
from alignlab.runs.directory import RunDir
from tests.reports.made_sweep import crossed, forget_prompts

Values = dict[str, list[dict[str, float]]]


def said(tmp_path: Path, settings: Values, **about: Any) -> str:
    """The answer to a sweep over beta, with these summaries by seed."""
    points = []
    for beta, summaries in settings.items():
        for seed, summary in enumerate(summaries):
            run = f"dpo-{len(points)}"
            points.append({"point": len(points), "run": run, "objective.beta": beta, "seed": str(seed)})
            write_sealed(RunDir.of(tmp_path, run).record_file, {"id": run, "status": "done", "summary": summary})
    sweep = {"name": "s", "axes": ["objective.beta", "seed"], "points": points, **about}
    write_sealed(tmp_path / "sweeps/s/sweep.json", sweep)
    ((_, settings_of_set),) = read_sweep(tmp_path / "sweeps/s").settings
    return " ".join(answers(settings_of_set, about.get("metric", "")))


def exact(kl: float, gap: float) -> dict[str, float]:
    reward = {"exact/reward": 1.0, "exact/frontier_reward": 1.0 + gap, "exact/reward_reference": 0.0}
    return {"exact/kl": kl, "exact/frontier_gap": gap, **reward}


def pairs(accuracy: float, **more: float) -> dict[str, float]:
    return {"eval/pairs/accuracy": accuracy, "eval/pairs/n": 400.0, "eval/pairs/distance": 1.0, **more}


SEEDS = (0.0, 0.01, 0.02)


def test_a_best_setting_at_equal_kl_is_named_with_its_interval(tmp_path: Path) -> None:
    text = said(tmp_path, {b: [exact(1.0, gap + s) for s in SEEDS] for b, gap in (("0.1", 0.5), ("0.3", 0.2))})
    assert text.startswith("At a KL of 1.00 nats, beta 0.3 has the lowest gap: 0.210 [0.185, 0.235] over 3 seeds")
    assert (
        "The closest setting that is known to be higher is beta 0.1: a difference of +0.300 [+0.300, +0.300]." in text
    )


def test_settings_that_are_not_told_apart_are_not_ranked(tmp_path: Path) -> None:
    noise = ((0.1, 0.3, 0.2), (0.3, 0.1, 0.22))
    text = said(tmp_path, {b: [exact(1.0, g) for g in gaps] for b, gaps in zip(("0.1", "0.3"), noise, strict=True)})
    assert "no setting is known to be best" in text
    assert "beta 0.1 (0.200" in text
    assert "has the lowest" not in text


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"0.1": [exact(1.0, 0.5)], "0.3": [exact(1.0, 0.1)]}, "each setting has one seed"),
        (
            {"0.1": [exact(3.0, 0.5 + s) for s in SEEDS], "0.3": [exact(1.0, 0.1 + s) for s in SEEDS]},
            "no two settings have the same KL (they reach 1.00 to 3.00 nats)",
        ),
        (
            {"0.1": [pairs(0.9 + s) for s in SEEDS], "0.3": [pairs(0.7 + s) for s in SEEDS]},
            "it was not measured). One that moved further may only seem better. By held-out pair accuracy alone, "
            "the highest is that of beta 0.1: 0.910 [0.885, 0.935] over 3 seeds and 400 pairs",
        ),
        ({"0.1": [pairs(0.5 + s) for s in SEEDS], "0.3": [pairs(0.5 - s) for s in SEEDS]}, "better than the start"),
        ({"0.1": [{"train/loss": 1.0}], "0.3": [{"train/loss": 2.0}]}, "no metric is known and comparable for all"),
    ],
)  # fmt: skip
def test_nothing_can_be_told(settings: Values, why: str, tmp_path: Path) -> None:
    text = said(tmp_path, settings)
    assert text.startswith("Nothing can be told about which is best: ")
    assert why in text


def test_sampled_kl_decides_whether_accuracies_are_comparable(tmp_path: Path) -> None:
    kl = "eval/kl_ref/sequence_k1"
    alike = {"0.1": [pairs(0.9 + s, **{kl: 1.0}) for s in SEEDS], "0.3": [pairs(0.7 + s, **{kl: 1.1}) for s in SEEDS]}
    assert said(tmp_path / "a", alike).startswith(
        "At a KL of 1.00 to 1.10 nats, beta 0.1 has the highest held-out pair"
    )
    apart = {"0.1": [pairs(0.9 + s, **{kl: 9.0}) for s in SEEDS], "0.3": [pairs(0.7 + s, **{kl: 1.1}) for s in SEEDS]}
    assert "no KL in common" not in said(tmp_path / "b", apart)
    assert "not known to have a KL in common (they reach 1.10 to 9.00 nats)" in said(tmp_path / "b", apart)


def test_a_metric_that_the_user_chose_ranks_with_a_warning(tmp_path: Path) -> None:
    settings = {"0.1": [pairs(0.9 + s) for s in SEEDS], "0.3": [pairs(0.7 + s) for s in SEEDS]}
    text = said(tmp_path, settings, metric="eval/pairs/accuracy", better="higher")
    assert text.startswith("Beta 0.1 has the highest held-out pair accuracy: 0.910")
    assert "this is not a comparison at equal KL" in text


def test_one_setting_is_measured_but_not_compared(tmp_path: Path) -> None:
    text = said(tmp_path, {"0.1": [exact(1.0, 0.5 + s) for s in SEEDS]})
    assert text == "There is one setting, so nothing is compared; its gap is 0.510 [0.485, 0.535] over 3 seeds."


def test_methods_are_compared_at_kls_that_all_of_them_reached(tmp_path: Path) -> None:
    """Two objectives, each with two strengths, whose KLs overlap or do not."""

    def methods(folder: Path, factor: float) -> str:
        points = []
        for objective, gain in (("dpo", 1.0), ("ipo", 0.5)):
            for strength, kl in (("0.1", 2.0), ("1.0", 1.0)):
                for seed in range(3):
                    run = f"{objective}-{len(points)}"
                    axes = {"objective": objective, "strength": strength, "seed": str(seed)}
                    points.append({"point": len(points), "run": run, **axes})
                    reached = kl * (factor if objective == "ipo" else 1.0)
                    summary = {"exact/kl": reached, "exact/reward": gain * reached + 0.01 * seed}
                    summary |= {"exact/reward_reference": 0.0, "exact/frontier_gap": 1.0}
                    write_sealed(RunDir.of(folder, run).record_file, {"id": run, "status": "done", "summary": summary})
        sweep = {"name": "s", "axes": ["objective", "strength", "seed"], "points": points}
        write_sealed(folder / "sweeps/s/sweep.json", sweep)
        ((_, settings_of_set),) = read_sweep(folder / "sweeps/s").settings
        return " ".join(answers(settings_of_set))

    text = methods(tmp_path / "same", 1.0)
    assert "At a KL of 2 nats, objective dpo has the highest exact reward: 2.010 [1.985, 2.035] over 3 seeds." in text
    assert "The closest method that is known to be lower is objective ipo: a difference of -1.000" in text
    apart = methods(tmp_path / "apart", 9.0)
    assert apart.startswith(
        "Nothing can be told about which is best: the methods have no KL in common (objective dpo 1 to"
    )


KL = "eval/kl_ref/sequence_k1"


def test_the_answer_counts_seeds_and_prompts_together(tmp_path: Path) -> None:
    """Seeds agree about the difference of scores, which comes from a few prompts. Other prompts may have none.

    The interval is that of statsmodels' mean squares. Without the stored answers it is over seeds alone.
    """
    rng = np.random.default_rng(2)
    gain = np.where(np.arange(16) < 3, 1.0, 0.0) + rng.normal(0, 0.05, 16)
    points, scores = [], {}
    for beta, better in (("0.1", 1.0), ("0.3", 0.0)):
        for seed in range(3):
            run = RunDir.of(tmp_path, f"dpo-{len(points)}")
            own = 1.0 + better * gain + rng.normal(0, 0.01, 16)
            scores[beta, seed] = own
            made = {
                "prompt_id": [f"p{i}" for i in range(16)], "prompt": ["x"] * 16, "sample": [0] * 16,
                "policy/answer": ["y"] * 16, "policy/tokens": [1] * 16, "policy/ended": [True] * 16,
                "reference/answer": ["z"] * 16, "reference/tokens": [1] * 16, "reference/ended": [True] * 16,
                "policy/policy_logps": [[-1.0]] * 16, "policy/reference_logps": [[-2.0]] * 16,
                "policy/score/rule": own.tolist(), "reference/score/rule": [0.0] * 16,
            }  # fmt: skip
            examples = Examples(made)
            examples.write(run.path / "evaluation/0a")
            summary = summarise(examples)
            write_sealed(run.path / "evaluation/0a/summary.json", {"run": run.id, **summary})
            metrics = {f"eval/{name}": value for name, value in flat(summary, "reference")}
            write_sealed(run.record_file, {"id": run.id, "status": "done", "summary": metrics})
            points.append({"point": len(points), "run": run.id, "objective.beta": beta, "seed": str(seed)})
    sweep = {"name": "s", "axes": ["objective.beta", "seed"], "points": points}
    write_sealed(tmp_path / "sweeps/s/sweep.json", sweep)
    ((_, found),) = read_sweep(tmp_path / "sweeps/s").settings
    (comparison,) = (c.difference for c in found.compared.comparisons.values() if c.difference)
    assert comparison is not None
    low, high = crossed([scores["0.3", seed] - scores["0.1", seed] for seed in range(3)])
    assert (comparison.low, comparison.high) == pytest.approx((low, high))
    assert low < 0 < high
    assert "no setting is known to be best" in " ".join(answers(found))
    assert not any("do not include the variation between prompts" in line for line in conclusions(found, ""))
    forget_prompts(tmp_path)
    for file in tmp_path.glob("runs/*/evaluation/0a/rows.parquet"):
        file.unlink()
    ((_, found),) = read_sweep(tmp_path / "sweeps/s").settings
    assert "beta 0.1 has the highest score by rule" in " ".join(answers(found))
    assert any("do not include the variation between prompts" in line for line in conclusions(found, ""))


def test_a_better_setting_that_shares_no_two_seeds_is_named(tmp_path: Path) -> None:
    """Two seeds of setting C failed; its one seed is far better than the best setting that has all seeds."""
    alike = {KL: 1.0}
    settings = {b: [pairs(a + s, **alike) for s in SEEDS] for b, a in (("A", 0.7), ("B", 0.6))}
    text = said(tmp_path, {**settings, "C": [pairs(0.99, **alike)]})
    assert "beta A has the best held-out pair accuracy of those that can be called best: 0.710" in text
    assert text.endswith("Not compared with it, because they share fewer than two seeds: beta C (0.990).")
    assert "has the highest" not in text


@pytest.mark.parametrize(
    ("first", "mean"),
    [
        ([pairs(a, **{KL: 1.0}) for a in (0.95, 0.45, 0.95)], 0.783),  # its interval contains 1/2
        ([pairs(0.9 + s, **{KL: 1.0, "eval/pairs/distance": 0.1}) for s in SEEDS], 0.91),  # it hardly moved
    ],
)
def test_a_better_setting_that_can_not_be_best_is_not_passed_over(
    first: list[dict[str, float]], mean: float, tmp_path: Path
) -> None:
    others = {b: [pairs(a + s, **{KL: 1.0}) for s in SEEDS] for b, a in (("B", 0.7), ("C", 0.6))}
    text = said(tmp_path, {"A": first, **others})
    assert "beta B has the best held-out pair accuracy of those that can be called best: 0.710" in text
    assert "Better, but not called best" in text
    assert text.endswith(f": beta A ({mean:.3f}).")
    assert "Tied with it" not in text
    found = read_sweep(tmp_path / "sweeps/s")
    cells = [cell.text for row in settings_table(found, found.settings[0][1]).rows for cell in row]
    assert "highest that can be called best" in cells
    assert "highest" not in cells


def test_sampled_kls_of_opposite_sign_are_not_equal(tmp_path: Path) -> None:
    settings = {b: [pairs(a + s, **{KL: kl}) for s in SEEDS] for b, a, kl in (("A", 0.9, -0.5), ("B", 0.7, 0.5))}
    assert "not known to have a KL in common (they reach -0.50 to 0.50 nats)" in said(tmp_path, settings)


def test_an_exact_kl_is_not_compared_with_a_sampled_one(tmp_path: Path) -> None:
    settings = {
        "A": [pairs(0.9 + s, **{"exact/kl": 1.0}) for s in SEEDS],
        "B": [pairs(0.7 + s, **{KL: 1.0}) for s in SEEDS],
    }
    assert "not known to have a KL in common (it was not measured)" in said(tmp_path, settings)


def test_each_setting_outside_the_answer_has_its_own_reason(tmp_path: Path) -> None:
    worse = [{**exact(5.0, 0.2 + s), "exact/reward": -1.0} for s in SEEDS]
    settings = {"A": [exact(1.0, 0.5 + s) for s in SEEDS], "B": [exact(1.0, 0.2 + s) for s in SEEDS]}
    text = said(tmp_path, {**settings, "C": [{}] * 3, "D": worse, "E": worse, "F": [exact(20.0, 0.2)] * 3})
    assert "beta B has the lowest gap" in text
    assert "Not compared, because no other setting has their KL: beta F." in text
    assert "None of these is known to be better than the start: beta D; beta E." in text
    assert text.endswith("Without results: beta C.")


def test_a_setting_that_stood_still_is_named_so_even_for_a_metric_of_choice(tmp_path: Path) -> None:
    still = {"eval/pairs/distance": 1e-4}
    settings = {b: [pairs(a + s, **still) for s in SEEDS] for b, a in (("A", 0.9), ("B", 0.6))}
    text = said(tmp_path, settings, metric="eval/pairs/accuracy", better="higher")
    assert "It hardly moved from the start." in text


def test_counts_of_zero_pairs_do_not_break_the_answer(tmp_path: Path) -> None:
    none = {"eval/pairs/n": 0.0, KL: 1.0}
    settings = {b: [pairs(a + s, **none) for s in SEEDS] for b, a in (("A", 0.9), ("B", 0.6))}
    assert "beta A has the highest held-out pair accuracy: 0.910" in said(tmp_path, settings)


Curves = dict[str, dict[str, list[tuple[int, float, float]]]]


def said_of_methods(folder: Path, curves: Curves) -> str:
    """The answer to a sweep of methods: objective -> strength -> (seed, exact KL, exact reward)."""
    points = []
    for objective, by_strength in curves.items():
        for strength, values in by_strength.items():
            for seed, kl, reward in values:
                run = f"{objective}-{len(points)}"
                points.append(
                    {"point": len(points), "run": run, "objective": objective, "strength": strength, "seed": str(seed)}
                )
                summary = {"exact/kl": kl, "exact/reward": reward, "exact/reward_reference": 0.0}
                write_sealed(RunDir.of(folder, run).record_file, {"id": run, "status": "done", "summary": summary})
    sweep = {"name": "s", "axes": ["objective", "strength", "seed"], "points": points}
    write_sealed(folder / "sweeps/s/sweep.json", sweep)
    ((_, settings_of_set),) = read_sweep(folder / "sweeps/s").settings
    return " ".join(answers(settings_of_set))


def straight(gain: float, seeds: Any = range(3), more: float = 0.0) -> dict[str, list[tuple[int, float, float]]]:
    """A curve of two settings, at KLs of 1 and 2 nats, with `gain` reward a nat."""
    return {str(kl): [(s, float(kl), gain * kl + 0.01 * s + more * (1 + s / 7)) for s in seeds] for kl in (1, 2)}


def test_methods_that_differ_by_rounding_are_not_ranked(tmp_path: Path) -> None:
    text = said_of_methods(tmp_path, {"dpo": straight(1.0), "exo": straight(1.0, more=1e-7)})
    assert "no method is known to be best" in text
    assert "has the highest" not in text


def test_methods_without_common_seeds_are_not_said_to_be_no_better_than_the_start(tmp_path: Path) -> None:
    text = said_of_methods(tmp_path, {"dpo": straight(1.0), "ipo": straight(0.5, seeds=range(3, 6))})
    assert text == "Nothing can be told about which is best: no method has two seeds in common with another."


def test_a_value_between_settings_that_are_far_apart_is_marked(tmp_path: Path) -> None:
    """Both curves are the same root of the KL, but A has no setting between 0.1 and 100 nats."""
    curves = {
        name: {str(kl): [(s, kl, 0.8 * kl**0.5 + 0.01 * s) for s in range(3)] for kl in kls}
        for name, kls in (("A", (0.1, 100.0)), ("B", (0.1, 1.0, 3.0, 10.0)))
    }
    text = said_of_methods(tmp_path, curves)
    assert "objective B has the highest" in text
    assert "Objective A has no setting between 0.1 and 100 nats, so its value is on the line between these two" in text
    assert "Objective B has no setting" not in text


def test_methods_that_did_not_move_are_not_said_to_have_no_kl_in_common(tmp_path: Path) -> None:
    curves = {
        name: {str(kl): [(s, kl, gain * kl) for s in range(3)] for kl in (1e-4, 3e-4)}
        for name, gain in (("dpo", 1.0), ("ipo", 2.0))
    }
    assert said_of_methods(tmp_path, curves) == (
        "Nothing can be told about which is best: KLs below 0.01 nats are not compared, and these methods went no "
        "further: objective dpo; objective ipo."
    )


def test_a_best_setting_whose_start_is_not_known_is_marked(tmp_path: Path) -> None:
    """The scores of online runs have no value at the start."""
    settings = {
        b: [{"eval/objective/kl": 1.0, "eval/objective/scores": score + s} for s in SEEDS]
        for b, score in (("A", 0.5), ("B", 0.1))
    }
    text = said(tmp_path / "a", settings)
    assert "beta A has the highest" in text
    assert "It is not known whether it is better than the start." in text
    known = {b: [exact(1.0, gap + s) for s in SEEDS] for b, gap in (("A", 0.5), ("B", 0.2))}
    assert "not known" not in said(tmp_path / "b", known)


def test_without_a_common_kl_a_better_mean_of_fewer_seeds_is_not_passed_over(tmp_path: Path) -> None:
    """One of the seeds of setting A diverged. Its mean is higher than that of setting B, which has all seeds."""
    settings = {b: [pairs(a + s) for s in seeds] for b, a, seeds in (("A", 0.9, SEEDS[:2]), ("B", 0.7, SEEDS))}
    text = said(tmp_path, settings)
    assert "the best that can be called so is that of beta B: 0.710 [0.685, 0.735] over 3 seeds" in text
    assert "the highest" not in text


def test_a_setting_that_is_called_best_is_not_said_to_be_no_better_than_the_start(tmp_path: Path) -> None:
    """Scores gain 1 in every seed. The gain differs between prompts, but by less than would make it uncertain."""
    easy, uneven = np.random.default_rng(0).normal(0, 0.5, (2, 16))
    points = []
    for beta, gain in (("0.1", 1.0), ("0.3", 0.5)):
        for seed in range(3):
            run = RunDir.of(tmp_path, f"dpo-{len(points)}")
            own = easy + uneven + gain + np.random.default_rng([seed, int(10 * gain)]).normal(0, 0.01, 16)
            examples = Examples(
                {
                    "prompt_id": [f"p{i}" for i in range(16)], "prompt": ["x"] * 16, "sample": [0] * 16,
                    "policy/answer": ["y"] * 16, "policy/tokens": [1] * 16, "policy/ended": [True] * 16,
                    "reference/answer": ["z"] * 16, "reference/tokens": [1] * 16, "reference/ended": [True] * 16,
                    "policy/policy_logps": [[-1.0]] * 16, "policy/reference_logps": [[-2.0]] * 16,
                    "policy/score/rule": own.tolist(), "reference/score/rule": easy.tolist(),
                }
            )  # fmt: skip
            examples.write(run.path / "evaluation/0a")
            summary = summarise(examples)
            write_sealed(run.path / "evaluation/0a/summary.json", {"run": run.id, **summary})
            metrics = {f"eval/{name}": value for name, value in flat(summary, "reference")}
            write_sealed(run.record_file, {"id": run.id, "status": "done", "summary": metrics})
            points.append({"point": len(points), "run": run.id, "objective.beta": beta, "seed": str(seed)})
    sweep = {"name": "s", "axes": ["objective.beta", "seed"], "points": points}
    write_sealed(tmp_path / "sweeps/s/sweep.json", sweep)
    ((_, found),) = read_sweep(tmp_path / "sweeps/s").settings
    assert "beta 0.1 has the highest score by rule" in " ".join(answers(found))
    assert "The best is beta 0.1. No other is tied with it" in " ".join(conclusions(found, ""))
    assert not any("not known to be better than the start" in line for line in conclusions(found, ""))


def told(folder: Path, settings: Values, **more: dict[str, Any]) -> str:
    """The answer of a report to a sweep over beta. more: run -> further fields of its record."""
    said(folder, settings)
    for run, fields in more.items():
        RunDir.of(folder, run.replace("_", "-")).update(**fields)
    ((_, sentences),) = answers_of(read_sweep(folder / "sweeps/s"))
    return " ".join(sentences)


APART = {b: [exact(1.0, gap + s) for s in SEEDS] for b, gap in (("0.1", 0.5), ("0.3", 0.2))}


def test_runs_that_diverged_are_named_beside_the_best(tmp_path: Path) -> None:
    text = told(tmp_path, APART, dpo_2={"status": "diverged"})
    assert "beta 0.3 has the lowest gap: 0.210 [0.185, 0.235] over 3 seeds" in text
    assert text.endswith("Runs that are not done do not count, which may favour their settings: beta 0.1 (1 of 3).")
    assert "not done" not in told(tmp_path / "all", APART)


def test_equal_values_of_all_seeds_are_not_passed_for_certainty(tmp_path: Path) -> None:
    text = told(tmp_path, {b: [exact(1.0, gap)] * 2 for b, gap in (("0.1", 0.5), ("0.3", 0.2))})
    assert "0.200 [0.200, 0.200] over 2 seeds" in text
    assert text.endswith("as if they were one run, so their intervals have no width: beta 0.1; beta 0.3.")


def test_runs_with_other_budgets_starts_or_pairs_are_named(tmp_path: Path) -> None:
    def record(steps: int = 10, start: str = "w", pairs: str = "p") -> dict[str, Any]:
        config = {"seed": 0, "trainer": {"max_steps": steps, "batch_size": 4}, "optim": {"lr": 0.1}}
        data = {"pairs": {"rows": 9, "digest": pairs}}
        return {"config": config, "objective": {"name": "dpo"}, "model": {"reference_weights": start}, "data": data}

    cases = (
        ({}, ""),
        ({"steps": 20}, "The runs had different budgets of training, which the report lists."),
        ({"start": "v"}, "The runs start from different policies, so their KLs are not on one scale."),
        ({"pairs": "q"}, "The held-out pairs were not the same for all runs, which may explain a difference."),
    )
    for number, (other, sentence) in enumerate(cases):
        text = told(tmp_path / str(number), APART, dpo_0=record(), dpo_3=record(**other))  # type: ignore[arg-type]
        assert text.endswith(sentence or "+0.300 [+0.300, +0.300].")


def test_a_kl_that_may_be_zero_is_not_equal_to_another(tmp_path: Path) -> None:
    """The KL comes from so few samples that it is not known to be above 0."""
    unsure = {KL: 1.0, f"{KL}/se": 0.6}
    settings = {b: [pairs(a + s, **unsure) for s in SEEDS] for b, a in (("A", 0.9), ("B", 0.7))}
    assert "a KL in common (some are not known to be above 0)" in said(tmp_path / "a", settings)
    settings = {b: [pairs(a + s, **{**unsure, f"{KL}/se": 0.5}) for s in SEEDS] for b, a in (("A", 0.9), ("B", 0.7))}
    assert said(tmp_path / "b", settings).startswith("At a KL of 1.00 nats, beta A has the highest")


def test_kls_of_seeds_that_are_far_apart_are_shown_so(tmp_path: Path) -> None:
    settings = {
        b: [pairs(a + s, **{KL: kl}) for s, kl in zip(SEEDS, (0.5, 1.0, 1.5), strict=True)]
        for b, a in (("A", 0.9), ("B", 0.7))
    }
    assert said(tmp_path, settings).startswith("At a KL of 1.00 nats (± 1.24 or less over seeds), beta A has")


def test_a_metric_of_one_seed_is_not_passed_for_a_sweep_of_one_seed(tmp_path: Path) -> None:
    scored = {KL: 1.0, "eval/score/rule/mean": 1.0, "eval/score/rule/reference": 0.0}
    settings = {b: [pairs(0.7, **(scored if seed == 0 else {})) for seed in range(3)] for b in "AB"}
    text = said(tmp_path, settings)
    assert "only one seed of each setting has score by rule" in text
    found = read_sweep(tmp_path / "sweeps/s")
    lines = settings_sentences(found, found.settings[0][1])
    assert lines[-1] == (
        "Some finished runs lack a metric, so its mean is over fewer seeds: sampled KL (nats), score by rule: "
        "beta A (1 of 3); beta B (1 of 3)."
    )
