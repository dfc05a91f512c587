"""Tables and figures of sweeps, made from records."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from alignlab.integrity import write_sealed
from alignlab.reports.collect import read_sweep
from alignlab.reports.figures import frontier
from alignlab.reports.seeds_table import split_axes
from alignlab.reports.sweep import point_line, write_report
from alignlab.reports.tables import COLUMNS, columns_of, headline, markdown, objectives, sweep_frame
from alignlab.runs.directory import RunDir
from alignlab.tracking.metrics import check_known

POINTS = [{"point": 0, "run": "dpo-a", "objective.beta": "0.1"}, {"point": 1, "run": "dpo-b", "objective.beta": "0.3"}]
RECORDS: dict[str, dict[str, Any]] = {
    "dpo-a": {"id": "dpo-a", "status": "done", "summary": {"eval/loss": 0.51239, "exact/kl": 2.0, "exact/reward": 1.0}},
    "dpo-b": {"id": "dpo-b", "status": "failed", "reason": "RuntimeError: x"},
}


def test_columns_are_known_metrics() -> None:
    check_known(COLUMNS)


def test_answers_to_the_prompts_of_a_file_have_columns() -> None:
    names = ("kl_ref/sequence_k1", "score/gold/mean", "score/gold/se", "winrate/llm", "winrate/llm/ci_low",
             "refusals/over_refusal", "refusals/refusal/n", "samples/mean_length")  # fmt: skip
    found = columns_of([*(f"questions/my_q/{name}" for name in names), "eval/score/gold/mean", "eval/winrate/gold"])
    assert {name: heading for name, (heading, _) in found.items()} == {
        "eval/score/gold/mean": "score by gold",
        "eval/winrate/gold": "win-rate by gold",
        "questions/my_q/kl_ref/sequence_k1": "sampled KL (nats) (my_q)",
        "questions/my_q/refusals/over_refusal": "refusals of safe prompts (my_q)",
        "questions/my_q/score/gold/mean": "score by gold (my_q)",
        "questions/my_q/winrate/llm": "win-rate by llm (my_q)",
    }


def test_markdown_shows_the_columns_that_points_have() -> None:
    assert markdown(sweep_frame(POINTS, RECORDS), ["objective.beta"]).splitlines() == [
        "| objective.beta | eval loss | exact KL (nats) | exact reward | status | run |",
        "|---|---|---|---|---|---|",
        "| 0.1 | 0.5124 | 2.000 | 1.000 | done | dpo-a |",
        "| 0.3 |  |  |  | failed | dpo-b |",
    ]
    assert headline(RECORDS["dpo-a"]) == "dpo-a done: eval loss 0.5124, exact KL (nats) 2.000, exact reward 1.000"


def test_a_report_needs_files_only(tmp_path: Path) -> None:
    directory = tmp_path / "sweeps" / "s"
    write_sealed(
        directory / "sweep.json", {"name": "s", "question": "Why?", "axes": ["objective.beta"], "points": POINTS}
    )
    for run_id, record in RECORDS.items():
        run = RunDir.of(tmp_path, run_id)
        summary = {**record.get("summary", {}), "exact/frontier_reward": 1.5, "exact/reward_reference": 0.0}
        write_sealed(run.record_file, {**record, "summary": summary})
    done = RunDir.of(tmp_path, "dpo-a")
    write_sealed(done.frontier, {"kl": [0.0, 1.0, 3.0], "reward": [0.0, 1.2, 1.8]})
    done.metrics.write_text(json.dumps({"train/global_step": 1, "train/loss": 0.69}) + "\n")
    text = write_report(directory)
    assert "RuntimeError: x" in text
    table = pd.read_csv(directory / "table.csv")
    assert table["status"].tolist() == ["done", "failed"]
    assert (directory / "table.md").read_text().startswith("# s\n\nWhy?\n")
    assert (directory / "figures/frontier.png").is_file()
    assert (directory / "figures/curves.png").is_file()


def test_runs_made_by_different_code_are_reported(tmp_path: Path) -> None:
    """Points, parents and attempts that a run was resumed from count. An attempt before a fresh start does not."""
    old, new = ({"git": git, "versions": {"torch": "2.13"}} for git in ("abc", "def"))
    made, begun = {"status": "failed", "parent": "sft-a"}, {**old, "resumed_from": 0}
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({**made, **new}, new, ""),
        ({**made, **new}, old, "abc (1 run), def (1 run)"),
        ({**made, **new, "resumed_from": 3, "attempts": [begun]}, new, "abc (1 run), def (2 runs)"),
        ({**made, **new, "resumed_from": 0, "attempts": [begun]}, new, ""),
    ]
    for number, (point, parent, said) in enumerate(cases):
        root = tmp_path / str(number)
        write_sealed(root / "sweeps/s/sweep.json", {"name": "s", "question": "", "axes": [], "points": POINTS[:1]})
        write_sealed(RunDir.of(root, "dpo-a").record_file, {"id": "dpo-a", **point})
        write_sealed(RunDir.of(root, "sft-a").record_file, {"id": "sft-a", "status": "done", **parent})
        text = write_report(root / "sweeps/s")
        (line,) = [line for line in text.splitlines() if "Made by different code" in line] or [""]
        assert sorted(line.rpartition("revision: ")[2].rstrip(".").split(", ")) == sorted(said.split(", "))


def test_the_output_of_a_process_that_died_is_shown(tmp_path: Path) -> None:
    directory = tmp_path / "sweeps" / "s"
    write_sealed(directory / "sweep.json", {"name": "s", "question": "", "axes": [], "points": POINTS})
    reasons = ("its process ended with signal SIGSEGV", "RuntimeError: out of luck")
    for point, reason in zip(POINTS, reasons, strict=True):
        run = RunDir.of(tmp_path, str(point["run"]))
        write_sealed(run.record_file, {"id": run.id, "status": "failed", "reason": reason, "stack": None})
        run.log.write_text("\n".join(f"{run.id} line {i}" for i in range(30)))
        (directory / "logs").mkdir(exist_ok=True)
        (directory / "logs" / f"{run.id}.log").write_text(f"{run.id} printed: terminate called\n")
    write_report(directory)
    table = (directory / "table.md").read_text()
    assert "dpo-a printed: terminate called" in table
    assert "dpo-b printed" not in table, "its own log is enough"
    for run_id in ("dpo-a", "dpo-b"):
        assert f"{run_id} line 29" in table
        assert f"{run_id} line 9\n" not in table, "the last twenty lines"
    for point in POINTS:
        run = RunDir.of(tmp_path, str(point["run"]))
        write_sealed(run.record_file, {"id": run.id, "status": "failed", "reason": reasons[0], "stack": "dpo-b"})
    write_report(directory)
    table = (directory / "table.md").read_text()
    assert table.count("dpo-b printed: terminate called") == 2, "vectorized runs share the log of the first of them"
    assert "dpo-a printed" not in table


def seeds_sweep(tmp_path: Path, values: dict[str, list[float | None]], **sweep: Any) -> str:
    """A sweep over beta and seed with these gaps; None failed. Returns its table."""
    points = []
    for beta, gaps in values.items():
        for seed, gap in enumerate(gaps):
            run_id = f"dpo-{beta}-{seed}"
            points.append({"point": len(points), "run": run_id, "objective.beta": beta, "seed": str(seed)})
            numbers = {"exact/kl": 1.0 + seed / 10, "exact/reward": 1.0, "exact/frontier_reward": 1.0 + (gap or 0)}
            summary = {**numbers, "exact/reward_reference": 0.0, "exact/frontier_gap": gap}
            record = {"status": "failed", "reason": "NonFiniteError: row 3"} if gap is None else {"status": "done"}
            run = RunDir.of(tmp_path, run_id)
            write_sealed(run.record_file, {"id": run_id, **record, **({"summary": summary} if gap is not None else {})})
            write_sealed(run.frontier, {"kl": [0.0, 1.0, 3.0], "reward": [0.0, 1.2, 1.8]})
            run.metrics.write_text(
                "".join(json.dumps({"train/global_step": s, "train/loss": 0.6}) + "\n" for s in (1, 2))
            )
    axes = {"name": "s", "question": "", "axes": ["objective.beta", "seed"], "points": points}
    write_sealed(tmp_path / "sweeps/s/sweep.json", {**axes, **sweep})
    return write_report(tmp_path / "sweeps/s")


def test_a_point_of_a_sweep_that_another_command_started_again(tmp_path: Path) -> None:
    (tmp_path / "sweeps" / "s").mkdir(parents=True)
    write_sealed(tmp_path / "sweeps" / "s" / "sweep.json", {"axes": [], "points": [{"point": 0, "run": "dpo-x"}]})
    assert "dpo-a has ended, but another command" in point_line(tmp_path / "sweeps" / "s", "dpo-a")


def test_a_line_for_each_point_that_ends(tmp_path: Path) -> None:
    """The first three numbers that a run has, and its time; the reason if it failed."""
    points = [{"point": i, "run": f"dpo-{i}", "seed": str(i)} for i in range(3)]
    write_sealed(tmp_path / "sweeps/s/sweep.json", {"axes": ["seed"], "points": points})
    many = {"eval/loss": 0.4, "eval/pairs/accuracy": 0.625, "exact/kl": 1.0, "exact/frontier_gap": 0.25}
    ends: list[dict[str, Any]] = [
        {"status": "diverged", "reason": "loss is nan"}, {"summary": {"eval/loss": 0.5}},
        {"summary": {**many, "time/train_seconds": 3.6}},
    ]  # fmt: skip
    for i, end in enumerate(ends):
        write_sealed(RunDir.of(tmp_path, f"dpo-{i}").record_file, {"id": f"dpo-{i}", "status": "done", **end})
    assert [point_line(tmp_path / "sweeps/s", f"dpo-{i}") for i in range(3)] == [
        "point 0 (seed 0; dpo-0): diverged, loss is nan",
        "point 1 (seed 1; dpo-1): done, eval loss 0.5000",
        "point 2 (seed 2; dpo-2): done, gap 0.250, exact KL (nats) 1.000, held-out pair accuracy 0.625, 4 s",
    ]


def test_nothing_is_left_of_an_earlier_sweep_of_the_same_name(tmp_path: Path) -> None:
    seeds_sweep(tmp_path, {"0.1": [0.5, 0.6]})
    folder = tmp_path / "sweeps/s"
    drawn = (folder / "figures/curves.png").stat().st_mtime_ns
    write_report(folder)
    assert (folder / "figures/curves.png").stat().st_mtime_ns == drawn, "the same figures are not drawn again"
    (folder / "figures/curves.png").unlink()
    write_report(folder)
    drawn = (folder / "figures/curves.png").stat().st_mtime_ns
    write_sealed(folder / "sweep.json", {**json.loads((folder / "sweep.json").read_text()), "question": "Why?"})
    write_report(folder)
    assert (folder / "figures/curves.png").stat().st_mtime_ns > drawn, "the title has changed"
    write_sealed(folder / "sweep.json", {"name": "s", "question": "", "axes": ["objective.beta"], "points": POINTS})
    write_report(folder)
    assert sorted(f.name for f in folder.rglob("*") if f.is_file()) == ["sweep.json", "table.csv", "table.md"]


def test_a_setting_without_numbers(tmp_path: Path) -> None:
    text = seeds_sweep(tmp_path, {"0.1": [0.5, 0.6], "0.3": [None, None]})
    assert "Missing seeds of beta 0.3: 0 (failed), 1 (failed). It has no numbers." in text
    assert "nothing is known about which is best" in text
    assert "| best |" not in text
    assert "| 0.550 ± 0.635 | unknown |  |  |" in text


def test_the_seeds_of_a_setting_are_one_row(tmp_path: Path) -> None:
    text = seeds_sweep(tmp_path, {"0.1": [0.5, 0.6, 0.7], "0.3": [0.4, 0.51, 0.6], "1.0": [9.0, 9.2, 9.1]})
    head, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
    assert head.startswith("| objective.beta | seeds | ")
    assert head.endswith("| gap | difference to the best | chance that the best wins | tied with it | seeds to add |")
    assert len(rows) == 3
    assert "| 0.1 | 3 |" in rows[0]
    assert "| 0.600 ± 0.248 | +0.097 [+0.076, +0.117] | 0.72 | no |  |" in rows[0]
    assert "| 0.503 ± 0.249 | best |  |  |  |" in rows[1]
    assert "| no |" in rows[2]
    assert "The best is beta 0.3. No other is tied with it" in text
    assert "compared by gap (lower is better)" in text
    table = pd.read_csv(tmp_path / "sweeps/s/settings.csv")
    assert table["exact/frontier_gap"].tolist() == pytest.approx([0.6, 0.50333333, 9.1])
    assert table["exact/frontier_gap/n"].tolist() == [3, 3, 3]
    assert table["tied"].tolist() == [False, True, False]
    assert len(pd.read_csv(tmp_path / "sweeps/s/table.csv")) == 9
    assert (tmp_path / "sweeps/s/table.md").read_text().count("| done | dpo-") == 9
    for figure in ("frontier", "curves"):
        assert (tmp_path / f"sweeps/s/figures/{figure}.png").stat().st_size > 10_000


def test_missing_points_are_reported(tmp_path: Path) -> None:
    text = seeds_sweep(tmp_path, {"0.1": [0.5, 0.6, 0.7], "0.3": [0.4, None, None], "1.0": [0.1, None, 0.11]})
    assert "| 0.3 | 1 of 3 |" in text
    assert "| -0.100 |  | unknown | unknown |" in text
    assert "Missing seeds of beta 0.3: 1 (failed), 2 (failed). Its numbers are from the other seeds." in text
    assert "The best of those that can be compared is beta 0.1, tied with beta 1.0." in text, "the best has all seeds"
    assert "Not compared, because they have fewer than two seeds in common with the best: beta 0.3" in text
    assert "- point 4 (beta 0.3, seed 1; dpo-0.3-1): failed, NonFiniteError: row 3" in text


def test_a_sweep_can_name_the_metric_of_comparison(tmp_path: Path) -> None:
    values: dict[str, list[float | None]] = {"0.1": [0.5, 0.6], "0.3": [0.4, 0.5]}
    assert "compared by exact KL (nats) (higher is better)" in seeds_sweep(
        tmp_path, values, metric="exact/kl", better="higher"
    )
    absent = seeds_sweep(tmp_path, values, metric="eval/loss")
    assert "Settings are not compared, because no finished run has eval/loss." in absent
    assert "difference" not in absent


def test_settings_with_one_seed_or_none(tmp_path: Path) -> None:
    text = seeds_sweep(tmp_path, {"0.1": [0.5], "0.3": [0.4]})
    assert "nothing is known about which is best" in text
    assert "±" not in "".join(line for line in text.splitlines() if line.startswith("|"))
    failed = seeds_sweep(tmp_path, {"0.1": [None], "0.3": [None]})
    assert failed.count("failed, NonFiniteError") == 2
    assert "| 0.1 | 0 of 1 |" in failed


def test_an_axis_zipped_with_the_seed_makes_no_setting() -> None:
    axes = ["objective.beta", "seed", "data.seed"]
    assert split_axes(axes, [["seed", "data.seed"]]) == (["objective.beta"], ["seed", "data.seed"])
    assert split_axes(axes, []) == (["objective.beta", "data.seed"], ["seed"])
    assert split_axes(["objective.beta"], [["a", "b"]]) == (["objective.beta"], [])


def test_a_field_that_varies_is_shown_with_its_values() -> None:
    records = [{"objective": {"name": "dpo", "beta": beta, "label_smoothing": 0.0}} for beta in (0.1, 0.3, 0.1)]
    assert objectives(records, ["strength"]) == ["dpo: beta 0.1 | 0.3, label_smoothing 0.0"]
    assert objectives(records, ["objective.beta"]) == ["dpo: label_smoothing 0.0"]


def test_sampled_runs_have_a_figure_of_reward_against_kl(tmp_path: Path) -> None:
    """Intervals are 12.7062 standard errors of two seeds and 1.96 of those over prompts; of one seed, the latter."""
    points = []
    for i, (beta, seed, kl, score) in enumerate(
        [("0.1", "1", 2.0, 0.5), ("0.1", "2", 3.0, 0.7), ("1.0", "1", 1.0, 0.4)]
    ):
        run = RunDir.of(tmp_path, f"dpo-{i}")
        summary = {
            "eval/kl_ref/sequence_k1": kl, "eval/kl_ref/sequence_k1/se": 0.1, "eval/score/rule/mean": score,
            "eval/score/rule/se": 0.05, "eval/score/rule/reference": 0.2,
        }  # fmt: skip
        write_sealed(run.record_file, {"id": run.id, "status": "done", "summary": summary})
        run.metrics.write_text(json.dumps({"train/global_step": 1, "train/loss": 0.69}) + "\n")
        points.append({"point": i, "run": run.id, "objective.beta": beta, "seed": seed})
    axes = ["objective.beta", "seed"]
    write_sealed(tmp_path / "sweeps/s/sweep.json", {"name": "s", "question": "", "axes": axes, "points": points})
    write_report(tmp_path / "sweeps/s")
    assert (tmp_path / "sweeps/s/figures/frontier.png").stat().st_size > 10_000
    (axes,) = frontier(read_sweep(tmp_path / "sweeps/s")).axes
    (bars,) = axes.containers
    across, up = (np.asarray(segments.get_segments()) for segments in bars.lines[2])
    assert (across[:, 1, 0] - across[:, 0, 0]) / 2 == pytest.approx([math.hypot(6.3531, 0.195996), 0.195996], rel=1e-4)
    assert (up[:, 1, 1] - up[:, 0, 1]) / 2 == pytest.approx([math.hypot(1.27062, 0.097998), 0.097998], rel=1e-4)
    assert axes.get_ylabel() == "mean score by rule"
    (start,) = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "D"]
    assert start == [[0.0, pytest.approx(0.2)]]
