"""The numbers behind the figures equal those that other code computes from the same files."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from alignlab.discovery import classes_by_module
from alignlab.evaluation.examples import Examples
from alignlab.evaluation.summary import summarise
from alignlab.integrity import write_sealed
from alignlab.objectives.base import Objective
from alignlab.reports import answer, series
from alignlab.reports.collect import _STRENGTHS, Collected, read_runs, read_sweep
from alignlab.reports.page.write import write_sweep_page
from alignlab.runs.directory import RunDir
from tests.reports.made_sweep import OBJECTIVES, SEEDS, STRENGTHS, crossed, forget_prompts, run_id, write


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def found(made: Path) -> Collected:
    return read_sweep(made)


def stored(made: Path, run: str) -> dict[str, Any]:
    return dict(json.loads((made.parents[1] / "runs" / run / "run.json").read_text())["summary"])


def t_interval(values: list[float]) -> tuple[float, float, float]:
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    return float(np.mean(values)), float(low), float(high)


def test_metrics_by_strength_with_t_intervals_over_seeds(made: Path, found: Collected) -> None:
    frame = series.metric_frame(found, "exact/frontier_gap")
    assert frame["line"].tolist() == ["dpo", "dpo", "ipo", "ipo"]
    assert frame["strength"].tolist() == [0.1, 1.0, 0.1, 1.0]
    for row in frame.itertuples():
        ids = [run_id(row.line, f"{row.strength}", seed) for seed in SEEDS]
        expected = t_interval([stored(made, run)["exact/frontier_gap"] for run in ids])
        assert (row.value, row.low, row.high) == pytest.approx(expected)
        assert (row.n, row.over) == (3, "seeds")


def test_an_accuracy_on_which_the_seeds_agree_has_its_interval_over_rows(made: Path) -> None:
    found = read_sweep(made)
    for record in found.records.values():
        record["summary"] |= {"eval/pairs/accuracy": 34 / 64, "eval/pairs/n": 64.0}
    frame = series.metric_frame(found, "eval/pairs/accuracy")
    assert frame["low"].tolist() == pytest.approx([34 / 64 - 0.98 / 8] * 4)
    assert frame["high"].tolist() == pytest.approx([34 / 64 + 0.98 / 8] * 4)
    assert set(frame["over"]) == {"held-out rows"}


def test_reward_and_kl_are_exact_where_they_can_be(made: Path, found: Collected) -> None:
    frame = series.frontier_frame(found)
    assert set(frame["kind"]) == {"exact"}
    for row in frame.itertuples():
        runs = [stored(made, run_id(row.line, f"{row.strength}", seed)) for seed in SEEDS]
        assert (row.kl, row.kl_low, row.kl_high) == pytest.approx(t_interval([r["exact/kl"] for r in runs]))
        assert (row.reward, row.reward_low, row.reward_high) == pytest.approx(
            t_interval([r["exact/reward"] for r in runs])
        )
    assert len(series.frontier_points(found)) == 12
    curves, notes = series.exact_frontiers(found)
    assert (len(curves), notes) == (1, [])


def test_sampled_reward_and_kl_have_intervals_over_seeds_and_prompts(tmp_path: Path) -> None:
    folder = write(tmp_path)
    for objective in OBJECTIVES:
        for strength in STRENGTHS:
            for seed in SEEDS:
                run = RunDir.of(tmp_path, run_id(objective, strength, seed))
                run.update(summary={"eval/loss": 0.5})
    frame = series.frontier_frame(read_sweep(folder))
    assert set(frame["kind"]) == {"score by gold"}
    assert set(frame["over"]) == {"seeds and prompts"}
    row = frame.iloc[0]
    low, high = crossed([answers(tmp_path, run_id("dpo", "0.1", seed))["policy/score/gold"] for seed in SEEDS])
    assert (row["reward_low"], row["reward_high"]) == pytest.approx((low, high))
    assert row["reward"] == pytest.approx((low + high) / 2)
    assert row["kl"] == pytest.approx(0.6), "each answer has -1 - 0.5 against -1.2 - 0.9"
    forget_prompts(tmp_path)
    for file in tmp_path.glob("runs/*/evaluation/*/rows.parquet"):
        file.unlink()
    # squares of half-widths over seeds and prompts add up
    row = series.frontier_frame(read_sweep(folder)).iloc[0]
    files = [tmp_path / "runs" / run_id("dpo", "0.1", seed) / "evaluation/0a1b2c3d/summary.json" for seed in SEEDS]
    scores = [json.loads(file.read_text())["answers"]["policy"]["score/gold"] for file in files]
    mean, low, _ = t_interval([score["value"] for score in scores])
    prompts = np.mean([score["value"] - score["low"] for score in scores])
    assert row["reward"] == pytest.approx(mean)
    assert row["reward_low"] == pytest.approx(mean - math.hypot(mean - low, prompts))


def test_curves_are_means_over_seeds_without_an_accuracy_before_the_first_change(made: Path, found: Collected) -> None:
    frame = series.curves_frame(found)
    part = frame[(frame["setting"] == "objective dpo, strength 0.1") & (frame["metric"] == "train/logratios/margins")]
    rows = [
        [json.loads(line) for line in (made.parents[1] / "runs" / run_id("dpo", "0.1", s) / "metrics.jsonl").open()]
        for s in SEEDS
    ]
    for step, value, low, high in part[["step", "value", "low", "high"]].itertuples(index=False):
        values = [run[int(step) - 1]["train/logratios/margins"] for run in rows]
        assert value == pytest.approx(np.mean(values))
        if step > 1:
            assert (value, low, high) == pytest.approx(t_interval(values))
    accuracy = frame[frame["metric"] == "train/rewards/accuracies"]
    assert accuracy["step"].min() == 2, "at step 1 policy and reference are the same"
    assert accuracy["value"].min() > 0.5


def test_the_curves_of_many_seeds_are_averaged_in_bins() -> None:
    table = pd.DataFrame(np.arange(80.0)[:, None] + np.arange(42.0), index=np.arange(80) + 1)
    found = series._binned(table)
    assert found.index.tolist() == list(range(2, 81, 2))
    assert found[41].tolist() == [41.5 + 2 * place for place in range(40)]


def test_a_long_curve_is_averaged_in_bins(tmp_path: Path) -> None:
    found = read_sweep(write(tmp_path, judged=False, steps=600))
    part = series.curves_frame(found, ["train/loss"])
    part = part[part["setting"] == "objective dpo, strength 0.1"]
    assert len(part) == series.MOST_POINTS
    assert part["step"].tolist()[:2] == [10, 20]
    assert part["value"].iloc[0] == pytest.approx(0.7 - 0.01 * np.mean(range(1, 11)))


def answers(root: Path, run: str) -> Any:
    """The stored answers of a run, read with pandas."""
    return pd.read_parquet(root / "runs" / run / "evaluation/0a1b2c3d/rows.parquet")


def test_win_rates_are_pooled_over_seeds_and_prompts(made: Path, found: Collected) -> None:
    frame = series.winrates_frame(found)
    assert frame["setting"].tolist() == [f"objective {o}, strength {s}" for o in OBJECTIVES for s in STRENGTHS]
    for row in frame.itertuples():
        ids = [run_id(row.line, f"{row.strength}", seed) for seed in SEEDS]
        wins = [answers(made.parents[1], run)["reference/first/gold"] for run in ids]
        low, high = crossed(wins)
        assert (row.judge, row.baseline, row.file) == ("gold", "reference", "")
        assert (row.n, row.prompts, row.over) == (3, 4, "seeds and prompts")
        assert row.value == pytest.approx(np.mean(wins))
        assert (row.low, row.high) == pytest.approx((max(0.0, low), min(1.0, high)))
    rate = series.metric_frame(found, "eval/winrate/gold")
    assert rate.empty, "the records of these runs hold no win-rate"


def test_the_win_rate_of_one_seed_is_that_of_its_latest_evaluation(tmp_path: Path) -> None:
    folder = write(tmp_path)
    sweep = json.loads((folder / "sweep.json").read_text())
    sweep["points"] = [point for point in sweep["points"] if point["seed"] == "1"]
    write_sealed(folder / "sweep.json", {k: v for k, v in sweep.items() if k != "sha256"})
    row = series.winrates_frame(read_sweep(folder)).iloc[0]
    file = tmp_path / "runs" / run_id("dpo", "0.1", "1") / "evaluation/0a1b2c3d/summary.json"
    stored_rate = json.loads(file.read_text())["compared"]["reference"]["gold"]["win_rate"]
    assert (row["value"], row["low"], row["high"]) == (
        stored_rate["value"], stored_rate["ci_low"], stored_rate["ci_high"],
    )  # fmt: skip
    assert (row["n"], row["prompts"], row["over"]) == (1, 4, "prompts")


def test_win_rates_of_a_record_are_shown_once(tmp_path: Path) -> None:
    folder = write(tmp_path)
    for place, seed in enumerate(SEEDS):
        run = RunDir.of(tmp_path, run_id("dpo", "0.1", seed))
        rates = {"eval/winrate/gold": 0.9, "eval/winrate/gold/ci_low": 0.8, "exact/winrate": 0.7 + 0.01 * place}
        rates |= {"eval/winrate/llm": 0.3, "eval/winrate/llm/n": 64.0, "questions/x/winrate/gold": 0.6}
        run.update(summary={**run.record()["summary"], **rates})
    frame = series.winrates_frame(read_sweep(folder))
    own = frame[frame["setting"] == "objective dpo, strength 0.1"].set_index(["file", "judge", "baseline"])
    assert sorted(own.index) == [
        ("", "gold", "reference"), ("", "gold (exact)", "reference"), ("", "llm", ""), ("x", "gold", ""),
    ]  # fmt: skip
    assert own["value"]["", "llm", ""] == pytest.approx(0.3)
    assert own["prompts"]["", "llm", ""] == 64
    exact = own.loc[("", "gold (exact)", "reference")]
    assert (exact["value"], exact["low"], exact["high"]) == pytest.approx(t_interval([0.7, 0.71, 0.72]))
    assert exact["over"] == "seeds"


def test_evaluations_of_other_prompts_are_not_mixed(tmp_path: Path) -> None:
    """A newer evaluation on the prompts of a file has rows of its own, and the held-out ones stay."""
    folder = write(tmp_path)
    before = series.winrates_frame(read_sweep(folder))
    for objective in OBJECTIVES:
        for strength in STRENGTHS:
            for seed in SEEDS:
                place = tmp_path / "runs" / run_id(objective, strength, seed) / "evaluation"
                shutil.copytree(place / "0a1b2c3d", place / "ffffffff")
                examples = Examples.read(place / "ffffffff")
                examples.columns["reference/first/gold"] = [1.0] * len(examples)
                examples.write(place / "ffffffff")
                summary = {"run": "r", "questions": "mine", **summarise(examples)}
                write_sealed(place / "ffffffff/summary.json", summary)
                os.utime(place / "ffffffff/summary.json", (2e9, 2e9))
    found = read_sweep(folder)
    frame = series.winrates_frame(found)
    pd.testing.assert_frame_equal(frame[frame["file"] == ""], before)
    mine = frame[frame["file"] == "mine"]
    assert mine["value"].tolist() == [1.0] * 4
    assert mine["low"].tolist() == pytest.approx([proportion_confint(4, 4, method="wilson")[0]] * 4)
    assert set(series.frontier_frame(found)["kind"]) == {"exact"}


def test_seeds_that_answered_other_prompts_are_not_paired(tmp_path: Path) -> None:
    folder = write(tmp_path)
    place = tmp_path / "runs" / run_id("dpo", "0.1", "2") / "evaluation/0a1b2c3d"
    examples = Examples.read(place)
    examples = Examples({**examples.columns, "prompt_id": [f"other {i}" for i in range(4)]})
    write_sealed(place / "summary.json", {"run": "r", **summarise(examples)})
    row = series.winrates_frame(read_sweep(folder)).iloc[0]
    rates = [
        json.loads((tmp_path / "runs" / run_id("dpo", "0.1", seed) / "evaluation/0a1b2c3d/summary.json").read_text())
        for seed in SEEDS
    ]
    singles = [rate["compared"]["reference"]["gold"]["win_rate"] for rate in rates]
    mean, low, _ = t_interval([rate["value"] for rate in singles])
    assert row["value"] == pytest.approx(mean)
    below = np.mean([rate["value"] - rate["ci_low"] for rate in singles])
    assert row["low"] == pytest.approx(max(0.0, mean - math.hypot(mean - low, below)))


def test_a_judge_that_only_compares_gives_a_plane_of_win_rate_and_kl(tmp_path: Path) -> None:
    points = []
    for number, (beta, kl, rate) in enumerate((("0.1", 2.0, 0.7), ("0.1", 3.0, 0.8), ("1.0", 1.0, 0.6))):
        run = RunDir.of(tmp_path, f"dpo-{number}")
        summary = {
            "eval/kl_ref/sequence_k1": kl, "eval/kl_ref/sequence_k1/se": 0.1, "eval/winrate/llm": rate,
            "eval/winrate/llm/ci_low": rate - 0.1, "eval/winrate/llm/ci_high": rate + 0.1,
            "eval/winrate/llm/reference": 0.5,
        }  # fmt: skip
        write_sealed(run.record_file, {"id": run.id, "status": "done", "summary": summary})
        points.append({"point": number, "run": run.id, "objective.beta": beta, "seed": str(number)})
    about = {"name": "s", "axes": ["objective.beta", "seed"], "points": points}
    write_sealed(tmp_path / "sweeps/s/sweep.json", about)
    found = read_sweep(tmp_path / "sweeps/s")
    frame = series.frontier_frame(found)
    assert set(frame["kind"]) == {"win-rate by llm"}
    assert frame["reward"].tolist() == pytest.approx([0.75, 0.6])
    assert (frame["reward_low"][1], frame["kl_low"][1]) == pytest.approx((0.5, 1 - 1.959964 * 0.1))
    assert series.start_reward(found) == 0.5
    assert series.reward_heading("win-rate by llm") == "win-rate by llm"


def test_runs_of_no_sweep_have_the_axes_that_differ(made: Path) -> None:
    ids = [run_id("dpo", strength, "1") for strength in STRENGTHS]
    found = read_runs(made.parents[1], ids)
    assert found.axes == ["objective.beta"]
    assert found.strength == "objective.beta"
    assert series.metric_frame(found, "exact/kl")["strength"].tolist() == [0.1, 1.0]
    assert read_runs(made.parents[1], [run_id("ipo", "0.1", "1"), ids[0]]).axes == ["objective"]


def test_runs_of_several_objectives_are_compared_like_their_sweep(tmp_path: Path) -> None:
    """Their strengths have different names, and each objective has fields that the other lacks."""
    folder = write(tmp_path)
    ids = [run_id(objective, strength, seed) for objective in OBJECTIVES for strength in STRENGTHS for seed in SEEDS]
    for name in ids:
        run = RunDir.of(tmp_path, name)
        config = run.record()["config"]
        beta = config["objective"]["beta"]
        own = {"beta": beta, "label_smoothing": 0.0} if name.startswith("dpo") else {"tau": beta, "reduction": "sum"}
        run.update(config={**config, "objective": own})
    found, sweep = read_runs(tmp_path, ids), read_sweep(folder)
    assert found.axes == ["objective", "strength", "seed"]
    assert [found.setting(point) for point in found.points] == [sweep.setting(point) for point in sweep.points]
    (_, of_runs), (_, of_sweep) = found.settings[0], sweep.settings[0]
    assert answer.answers(of_runs) == answer.answers(of_sweep)
    assert answer.answers(of_runs)[0].startswith("At a KL of ")


def test_the_strength_of_every_objective_is_found_by_its_fields() -> None:
    for name, kind in classes_by_module("alignlab.objectives", Objective).items():
        fields = {field.name for field in dataclasses.fields(kind)}
        assert next((one for one in _STRENGTHS if one in fields), None) == kind.strength, name


def test_directories_that_are_broken_or_missing_are_noted(tmp_path: Path) -> None:
    folder = write(tmp_path)
    ids = [run_id("dpo", "0.1", seed) for seed in SEEDS]
    RunDir.of(tmp_path, ids[0]).record_file.write_text('{"status": "do')
    RunDir.of(tmp_path, ids[1]).update(objective="dpo", summary={"eval/loss": None, "exact/kl": 1.0})
    (RunDir.of(tmp_path, ids[2]).path / "evaluation/0a1b2c3d/summary.json").write_text("{")
    RunDir.of(tmp_path, run_id("ipo", "0.1", "1")).frontier.write_text("[]")
    RunDir.of(tmp_path, run_id("ipo", "1.0", "1")).metrics.write_bytes(b'{"train/global_step": 1, "train/lo\xff')
    sweep = json.loads((folder / "sweep.json").read_text())
    sweep["points"] += [{"objective": "dpo"}, {"run": "../../../etc"}]
    write_sealed(folder / "sweep.json", {k: v for k, v in sweep.items() if k != "sha256"})
    found = read_sweep(folder)
    assert found.records[ids[0]]["status"] == "damaged"
    series.winrates_frame(found)
    text = "\n".join(found.notes)
    assert "2 points without a run are left out" in text
    assert f"{ids[1]}: fields of its record have a wrong type and are left out: objective" in text
    assert f"{ids[1]}: 1 metric of its summary can't be read as a number" in text
    assert f"{ids[2]}: an evaluation is left out" in text
    assert len(series.frontier_points(found)) == 10
    assert len(series.curves_frame(found)["setting"].unique()) == 4


def test_a_page_says_which_directories_are_incomplete(tmp_path: Path) -> None:
    """Each run has another fault. The page is written, and names all of them."""
    folder = write(tmp_path)
    ids = [run_id(objective, strength, seed) for objective in OBJECTIVES for strength in STRENGTHS for seed in SEEDS]
    runs = [RunDir.of(tmp_path, name) for name in ids]
    for run in runs:
        run.update(config={**run.record()["config"], "trainer": {"max_steps": 6, "log_every": 1}})
    runs[0].record_file.unlink()
    shutil.rmtree(runs[1].path)
    shutil.rmtree(runs[2].path)
    runs[2].path.write_text("x")
    runs[3].metrics.unlink()
    runs[4].metrics.write_bytes(runs[4].metrics.read_bytes()[:-200])
    runs[5].metrics.write_text("[1]\nx\n" + runs[5].metrics.read_text())
    runs[6].update(status=["done"])
    runs[7].update(overrides=[1], attempts=["x"], versions=[], started=5)
    runs[8].update(data={"audit": {"errors": 5, "facts": [1]}})
    (runs[9].path / "evaluation/0a1b2c3d/rows.parquet").write_bytes(b"PAR1")
    forget_prompts(tmp_path)
    runs[10].log.unlink()
    runs[10].log.mkdir()
    runs[10].update(status="failed")
    runs[11].metrics.unlink()
    runs[11].metrics.mkdir()
    page = write_sweep_page(folder).with_suffix(".md").read_text()
    notes = page.partition("## Notes")[2].partition("##")[0]
    for line in (
        f"{ids[0]}: its folder has no run.json",
        f"{ids[2]}: a file stands in place of its folder",
        f"{ids[3]}: its training metrics can't be read: metrics.jsonl: No such file",
        f"{ids[4]}: its training metrics end at update 4 of 6",
        f"{ids[5]}: 2 of 8 rows of its training metrics can't be read",
        f"{ids[6]}: fields of its record have a wrong type and are left out: status",
        f"{ids[7]}: fields of its record have a wrong type and are left out: started, versions, overrides, attempts",
        f"{ids[8]}: fields of its record have a wrong type and are left out: data.audit.facts, data.audit.errors",
        f"{ids[9]}: the answers of an evaluation are left out",
        f"{ids[11]}: its training metrics can't be read: metrics.jsonl: Is a directory",
    ):
        assert line in notes, line
    rows = page.partition("## Runs that are not done")[2].partition("\n## ")[0]
    reasons = {ids[0]: "damaged | its folder has no run.json", ids[1]: "not run | not begun",
               ids[2]: "damaged | a file stands in place of its folder", ids[6]: "damaged | its record has no status",
               ids[10]: "failed | no reason recorded"}  # fmt: skip
    assert {name: f"| {reason} | {name} |" in rows for name, reason in reasons.items()} == dict.fromkeys(reasons, True)
    assert rows.count("\n| objective") == len(reasons)


def test_no_torch_is_imported() -> None:
    code = (
        "import sys; from alignlab.reports import collect, figures, latex, series, screen; "
        "from alignlab.reports.page import write; "
        "assert not {'torch', 'lightning', 'hydra', 'transformers', 'wandb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
