"""The answer of a sweep: what is said, and when nothing can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alignlab.integrity import write_sealed
from alignlab.reports.answer import answers
from alignlab.reports.collect import read_sweep
from alignlab.runs.directory import RunDir

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
    assert text.startswith(
        "At a KL of 1.00 to 1.00 nats, beta 0.3 has the lowest gap: 0.210 [0.185, 0.235] over 3 seeds"
    )
    assert "The nearest one that differs is beta 0.1: +0.300 [+0.300, +0.300]" in text


def test_settings_that_are_not_told_apart_are_not_ranked(tmp_path: Path) -> None:
    noise = ((0.1, 0.3, 0.2), (0.3, 0.1, 0.22))
    text = said(tmp_path, {b: [exact(1.0, g) for g in gaps] for b, gaps in zip(("0.1", "0.3"), noise, strict=True)})
    assert "none is known to be best" in text
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
            "it was not measured), and one that moved further may only seem better. By held-out pair accuracy alone, "
            "the highest is that of beta 0.1: 0.910 over 3 seeds and 400 pairs",
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
    assert "The nearest one that differs is objective ipo: -1.000" in text
    apart = methods(tmp_path / "apart", 9.0)
    assert apart.startswith(
        "Nothing can be told about which is best: the methods have no KL in common (objective dpo 1 to"
    )
