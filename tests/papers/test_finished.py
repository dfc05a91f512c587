"""Runs of a sweep, read back for a claim."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from alignlab.integrity import write_sealed
from alignlab.papers.finished import Finished, by_setting, paired_difference, runs_of_sweep
from alignlab.papers.ipo_2023 import growth_of_kl
from alignlab.papers.kto_2024 import comparisons, effect_of_weights
from alignlab.runs.directory import RunDir


def run(value: float, *, status: str = "done", name: str = "exact/kl", **axes: str) -> Finished:
    return Finished(RunDir(Path("run")), axes, {"status": status, "summary": {name: value}, "config": {}})


def test_metrics_by_setting_and_seed() -> None:
    runs = [run(1.0, tau="0.1", seed="0"), run(1.5, tau="0.1", seed="3"), run(2.0, tau="0.5", seed="3"),
            run(2.5, tau="0.5", seed="0")]  # fmt: skip
    values = by_setting(runs, "exact/kl")
    assert values == {"tau=0.1": {0: 1.0, 3: 1.5}, "tau=0.5": {3: 2.0, 0: 2.5}}
    assert paired_difference(values, "tau=0.5", "tau=0.1") == [1.5, 0.5]


def test_a_run_that_diverged_has_no_numbers() -> None:
    diverged = run(1.0, status="diverged", seed="0")
    assert math.isnan(diverged.metric("exact/kl"))
    assert math.isnan(run(1.0, seed="0").metric("exact/reward"))


def test_a_diverged_policy_is_nan_for_every_action() -> None:
    config = {"data": {"alphabet": "abc", "comparisons": ["ab"]}}
    diverged = Finished(RunDir(Path("run")), {"seed": "0"}, {"status": "diverged", "config": config})
    assert [math.isnan(p) for p in diverged.action_probabilities()] == [True] * 3


def test_runs_of_a_sweep(tmp_path: Path) -> None:
    points = [{"point": 0, "run": "dpo-1", "seed": "7", "objective.beta": "0.1"}]
    write_sealed(tmp_path / "sweeps/mine/sweep.json", {"name": "mine", "points": points})
    write_sealed(tmp_path / "runs/dpo-1/run.json", {"id": "dpo-1", "status": "done", "config": {"seed": 7}})
    (found,) = runs_of_sweep(tmp_path, "mine")
    assert (found.seed, found.setting, found.config) == (7, "objective.beta=0.1", {"seed": 7})
    with pytest.raises(OSError, match=r"sweep\.json"):
        runs_of_sweep(tmp_path, "other")


def test_growth_of_kl_is_paired_by_seed() -> None:
    runs = [
        run(value, objective="dpo", strength="1", **{"trainer.max_steps": steps, "seed": seed})
        for steps, seed, value in (("600", "0", 1.0), ("600", "1", 1.1), ("4000", "0", 1.5), ("4000", "1", 1.7))
    ]
    (name,) = (found := growth_of_kl(runs))
    assert name == "growth at objective=dpo strength=1"
    assert found[name] == pytest.approx([0.5, 0.6])


def test_effect_of_weights() -> None:
    key = "objective.desirable_weight"
    runs = [
        Finished(RunDir(Path("run")), {key: weight, "seed": "0"}, {"status": "done", "summary": summary})
        for weight, summary in (
            ("1", {"exact/reward": 0.5, "exact/frontier_gap": 0.4}),
            ("10", {"exact/reward": 0.7, "exact/frontier_gap": 0.1}),
            ("13.33", {"exact/reward": 0.6, "exact/frontier_gap": 0.2}),
        )
    ]
    found = {name: values[0] for name, values in effect_of_weights(runs).items()}
    expected = {"reward at weight 10": 0.2, "gap at weight 10": 0.3, "reward at weight 13.33": 0.1,
                "gap at weight 13.33": 0.2}  # fmt: skip
    assert found == pytest.approx({f"gain of {name}": value for name, value in expected.items()})


def test_comparisons_are_pairs_of_different_actions_and_always_the_same() -> None:
    made = comparisons()
    assert len(made) == 1000
    assert all(len(pair) == 2 and pair[0] != pair[1] for pair in made)
    assert made == comparisons()
