"""Runs of a sweep, read back for a claim."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from alignlab.integrity import write_sealed
from alignlab.lab.frontier import expected, kl, tilt
from alignlab.papers.chowdhury_2024 import under_noise
from alignlab.papers.dpo_2023 import distance_to_the_optimum
from alignlab.papers.finished import Finished, by_setting, paired_difference, runs_of_sweep
from alignlab.papers.ipo_2023 import growth_of_kl
from alignlab.papers.kto_2024 import effect_of_weights
from alignlab.papers.orpo_2024 import both_answers
from alignlab.papers.pal_2024 import log_ratios
from alignlab.papers.park_2024 import trained_length
from alignlab.papers.simpo_2024 import likelihoods
from alignlab.papers.tajwar_2024 import online_gain
from alignlab.papers.tang_2024 import at_equal_kl
from alignlab.papers.xu_2024 import gained
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
    points = [{"point": 0, "run": "dpo-1", "seed": "7", "++objective.beta": "0.1"}]
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


def test_the_mass_that_a_policy_moves_to_unseen_answers() -> None:
    """The prior of this world gives the answers in no pair 0.11."""
    data = {"kind": "diagonal", "prompts": 8, "covered": 3, "noise": {"flipped": 0.1}}
    trained = Finished(RunDir(Path("run")), {"seed": "0"}, {
        "status": "done", "summary": {"exact/unseen": 0.5}, "config": {"data": data}})  # fmt: skip
    assert trained.data.noise.flipped == 0.1
    assert gained(trained) == pytest.approx(0.39, abs=1e-9)


def test_the_distance_to_the_optimum_follows_from_reward_and_kl() -> None:
    """Of the optimum itself it is 0. Of the prior it is KL(pi_ref || pi*), which is not 0."""
    data = {"kind": "random", "settings": {"answers": 4.0}}
    world = Finished(RunDir(Path("run")), {}, {"config": {"data": data}}).data.world
    best = tilt(world.demonstrator_logps, world.gold_reward, 0.5)
    found = []
    for policy in (best, world.demonstrator_logps):
        summary = {
            "exact/reward": expected(policy, world.gold_reward),
            "exact/kl": kl(policy, world.demonstrator_logps),
        }
        runs = [
            Finished(RunDir(Path("run")), {"objective.beta": beta, "seed": "0"}, {
                "status": "done", "summary": summary, "config": {"data": data, "objective": {"beta": float(beta)}}})
            for beta in ("0.5", "1", "2")
        ]  # fmt: skip
        found.append(distance_to_the_optimum(runs)["KL at beta 0.5"][0])
    assert found == pytest.approx([0.0, kl(world.demonstrator_logps, best)], abs=1e-12)
    assert found[1] > 0.1


def test_what_orpo_adds_to_the_gap_is_paired_by_seed() -> None:
    key = "objective.odds_weight"
    runs = [
        Finished(RunDir(Path("run")), {key: weight, "seed": seed}, {"status": "done", "summary": summary})
        for weight, seed, margin in (
            ("0", "0", 0.1), ("0", "1", 0.2), ("0.1", "0", 0.3), ("0.1", "1", 0.3), ("0.5", "1", 0.5),
            ("0.5", "0", 0.6), ("1", "0", 0.9), ("1", "1", 0.9),
        )
        for summary in [{"eval/logratios/chosen": 2.0 + margin, "eval/logratios/rejected": 2.0,
                         "eval/logratios/margins": margin}]
    ]  # fmt: skip
    found = both_answers(runs)
    assert found["rise of chosen under SFT"] == pytest.approx([2.1, 2.2])
    assert found["rise of rejected at lambda 1"] == [2.0, 2.0]
    name = "gap between chosen and rejected at lambda {} minus that at {}"
    assert found[name.format("0.1", "0")] == pytest.approx([0.2, 0.1])
    assert found[name.format("0.5", "0.1")] == pytest.approx([0.3, 0.2])


def test_log_ratios_of_dpo_and_dpop() -> None:
    runs = [
        Finished(RunDir(Path("run")), {"objective": name, "seed": "0"}, {"status": "done", "summary": {
            "eval/logratios/chosen": value, "eval/logratios/margins": value + 5}})
        for name, value in (("dpo", -3.0), ("dpop", 0.1))
    ]  # fmt: skip
    assert log_ratios(runs) == {
        "log-ratio of chosen under DPO": [-3.0], "margin under DPO": [2.0],
        "log-ratio of chosen under DPOP": [0.1], "margin under DPOP": [5.1],
    }  # fmt: skip


def test_the_gain_of_online_training_is_paired_by_seed() -> None:
    values = (("dpo", "0", 0.25), ("dpo", "1", 0.5), ("online_dpo", "1", 1.0), ("online_dpo", "0", 1.0))
    runs = [run(value, name="exact/reward", objective=name, seed=seed) for name, seed, value in values]
    assert online_gain(runs)["online minus offline"] == [0.75, 0.5]


def of_axes(axes: dict[str, str], **summary: float) -> Finished:
    return Finished(RunDir(Path("run")), axes, {"status": "done", "summary": summary})


def test_what_robust_dpo_gains_under_noise_is_paired_by_seed() -> None:
    key = "objective.label_smoothing"
    runs = [
        of_axes({"objective": name, key: share, "seed": seed}, **{"exact/reward": reward, "exact/frontier_gap": 0.5})
        for name, share, rewards in (
            ("dpo", "0", (1.0, 1.25)), ("dpo", "0.3", (0.5, 0.25)), ("robust_dpo", "0.3", (2.0, 2.0)),
        )
        for seed, reward in zip(("1", "0"), rewards, strict=True)
    ]  # fmt: skip
    found = under_noise(runs)
    assert found["reward of robust DPO minus DPO"] == [0.75, 1.0]
    assert found["reward of robust DPO minus conservative DPO"] == [1.75, 1.5]
    assert found["gap of conservative DPO at its own KL"] == [0.5, 0.5]


def test_the_fall_of_the_length_with_alpha() -> None:
    runs = [
        of_axes({"objective.alpha": alpha, "seed": "0"}, **{"exact/length": length, "exact/frontier_gap": 0.25})
        for alpha, length in (("0", 4.0), ("0.03", 3.5), ("0.1", 3.75), ("0.3", 1.0))
    ]
    found = trained_length(runs)
    falls = {name: values for name, values in found.items() if name.startswith("tokens")}
    assert falls == {
        "tokens at alpha 0 minus those at 0.03": [0.5],
        "tokens at alpha 0.03 minus those at 0.1": [-0.25],
        "tokens at alpha 0.1 minus those at 0.3": [2.75],
    }
    assert found["gap at alpha 0.3"] == [0.25]


def test_pairs_ordered_by_likelihood() -> None:
    names = ("eval/rewards/accuracies", "eval/pref/likelihood_accuracies")
    runs = [
        of_axes({"objective": objective, "seed": "0"}, **dict(zip(names, values, strict=True)))
        for objective, values in (("dpo", (0.75, 0.5)), ("simpo", (0.625, 0.625)))
    ]
    assert likelihoods(runs) == {
        "accuracy by likelihood: SimPO minus DPO": [0.125], "DPO: accuracy by reward minus by likelihood": [0.25],
    }  # fmt: skip


def test_rewards_are_compared_at_half_of_the_common_kl(tmp_path: Path) -> None:
    """Online: KL 0 to 4, reward 0 to 1. Offline: KL 0, 1, 2 and reward 0, 0.125, 0.5. At KL 1: 0.25 - 0.125."""
    runs = []
    for objective, rows in (("online_dpo", [(4.0, 1.0)]), ("dpo", [(1.0, 0.125), (2.0, 0.5)])):
        run = RunDir(tmp_path / objective)
        run.path.mkdir()
        lines = [
            json.dumps({"train/global_step": step, "exact/kl": kl_, "exact/reward": reward})
            for step, (kl_, reward) in enumerate(rows, 1)
        ]
        run.metrics.write_text("".join(f"{line}\n" for line in lines))
        axes = {"objective": objective, "data.settings.centre": "70", "seed": "0"}
        runs.append(Finished(run, axes, {"status": "done", "summary": {"exact/reward_reference": 0.0}}))
    assert at_equal_kl(runs) == {"online minus offline where the best answers are rare": [0.125]}
