"""`alignlab report`, `alignlab plot` and `alignlab runs show` from the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignlab.errors import DataError
from alignlab.reports.screen import sparkline
from alignlab.runs.directory import RunDir
from tests.reports.made_sweep import run_id, write

Run = Callable[..., Any]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return write(tmp_path / "outputs")


def test_a_report_is_written_into_the_folder_of_its_sweep(made: Path, alignlab: Run) -> None:
    for wanted in ("made", "ma", "outputs/sweeps/made"):
        found = alignlab("report", wanted)
        assert (found.code, found.err) == (0, "")
        assert found.out.startswith("At a KL of ")
        assert found.out.splitlines()[-1].endswith("outputs/sweeps/made/report.html and report.md")
    assert (made / "report.html").stat().st_size < 2_000_000
    assert (made / "report.md").read_text().startswith("# Which is best? answer\n")


def test_a_report_of_runs_and_conditions(made: Path, alignlab: Run) -> None:
    found = alignlab("report", run_id("dpo", "0.1", "1"), "objective=ipo", "to=page.html")
    assert found.code == 0, found.err
    assert "7 runs: 7 done" in Path("page.md").read_text()
    found = alignlab("report", "made", "--against", "made", "to=page.html")
    assert "The same runs are in both sweeps: 12 of 12" in Path("page.md").read_text()
    assert alignlab("report", "objective=dpo").out.splitlines()[-1].startswith("written to outputs/reports/runs-")


def test_a_page_replaces_pages_only(made: Path, alignlab: Run) -> None:
    assert [alignlab("report", "made", "to=page.html").code for _ in range(2)] == [0, 0]
    run = f"outputs/runs/{run_id('dpo', '0.1', '1')}"
    for name in ("mine.html", "thesis.md", f"{run}/figure.pdf"):
        Path(name).write_text("mine")
    for words in (["report", "made", "to=mine.html"], ["report", "made", "to=thesis.html"]):
        found = alignlab(*words)
        assert (found.code, "which is no report of alignlab's" in found.err) == (2, True)
    for words in (["report", "made", f"to={run}/x.html"], ["plot", "forest", "made", f"to={run}/figure.pdf"]):
        found = alignlab(*words)
        assert (found.code, "lies in the folder of a run" in found.err) == (2, True)
    assert {Path(name).read_text() for name in ("mine.html", "thesis.md", f"{run}/figure.pdf")} == {"mine"}
    assert not Path("thesis.html").exists()


def test_a_report_for_wandb_is_written_as_a_spec_without_a_login(made: Path, alignlab: Run) -> None:
    pytest.importorskip("wandb_workspaces")
    found = alignlab("report", "made", "--wandb")
    assert found.code == 0, found.err
    assert "type: wandb login, then: alignlab report --wandb made" in found.out
    assert json.loads((made / "wandb_report.json").read_text())["title"] == "made"


def test_a_report_for_wandb_about_runs(made: Path, alignlab: Run) -> None:
    """The command to type names the same runs, with quotes for the shell."""
    pytest.importorskip("wandb_workspaces")
    found = alignlab("report", "objective=dpo", "objective.beta<=0.5", "--wandb")
    assert found.code == 0, found.err
    assert "type: wandb login, then: alignlab report --wandb objective=dpo 'objective.beta<=0.5'" in found.out
    (file,) = Path("outputs/reports").glob("*/wandb_report.json")
    assert "job/hash" in file.read_text()
    assert (file.parent / "report.html").is_file()
    assert alignlab("report", "dpo-99", "--wandb").code == 2
    assert len(list(Path("outputs/reports").iterdir())) == 1


def test_all_mistakes_of_a_report_at_once(made: Path, alignlab: Run) -> None:
    found = alignlab("report", "maed", "dpo-99", "status=donne")
    assert found.code == 2
    assert "3 problems in this command; nothing was done" in found.err
    assert "type: alignlab report made" in found.err
    assert "dpo-99\n      there is none below outputs: see `alignlab runs`" in found.err
    assert "no run can be donne" in found.err
    found = alignlab("report")
    assert found.code == 2
    assert "sweeps below outputs: made" in found.err
    assert "must be the name of an HTML file" in alignlab("report", "made", "to=x.pdf").err
    assert "no run below outputs meets these conditions" in alignlab("report", "status=failed").err
    (made / "sweep.json").write_text("{")
    found = alignlab("report", "made")
    assert (found.code, "is damaged" in found.err) == (2, True)
    assert alignlab("report", "--help").out.startswith("usage: alignlab report <sweep>")


def test_figures_and_tables_are_written(made: Path, alignlab: Run, drawn_figures: None) -> None:
    found = alignlab("plot", "frontier", "made")
    assert found.code == 0, found.err
    folder = made / "figures" / "paper"
    assert sorted(file.name for file in folder.iterdir()) == ["frontier.pdf", "frontier.svg"]
    assert alignlab("plot", "strength", "made", "--style", "screen", "metric=exact/kl").code == 0
    assert (made / "figures/screen/strength_exact_kl.png").stat().st_size > 5000
    assert alignlab("plot", "table", "made").code == 0
    assert (folder / "table.tex").read_text().startswith("\\begin{table}")
    assert (folder / "table.csv").read_text().startswith("objective,strength,seeds,exact reward,exact reward low,")
    assert alignlab("plot", "forest", "made", "to=f.svg").code == 0
    assert Path("f.svg").is_file()


def test_all_mistakes_of_a_figure_at_once(made: Path, alignlab: Run) -> None:
    found = alignlab("plot", "frontire", "made", "--style", "papr", "to=x.jpg")
    assert found.code == 2
    assert "3 problems" in found.err
    assert "type: alignlab plot frontier <sweep>" in found.err
    assert "must be one of paper, screen" in found.err
    assert "must end with .pdf, .svg, .png" in found.err
    found = alignlab("plot", "strength", "made", "metric=nope")
    assert found.code == 2
    assert "no finished run has nope; the runs have: eval/loss" in found.err
    assert alignlab("plot", "forest", "made", "metric=eval/loss").code == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "its training metrics can't be read: metrics.jsonl: No such file"),
        ('[1]\n{"train/global_step": "x"}\n{"train/global_step": 6, "train/loss": 1}\n', "2 of 3 rows of its training"),
        ('{"train/global_step": 4, "train/loss": 1}\n{"train/glob', "its training metrics end at update 4 of 6"),
        ('{"train/global_step": 6, "train/loss": ' + "9" * 500 + "}\n", ""),
    ],
)
def test_a_screen_says_what_is_wrong_with_metrics(content: str | None, said: str, made: Path, alignlab: Run) -> None:
    run = RunDir.of("outputs", run_id("dpo", "0.1", "1"))
    run.update(config={**run.record()["config"], "trainer": {"max_steps": 6, "log_every": 1}})
    if content is None:
        run.metrics.unlink()
    else:
        run.metrics.write_text(content)
    found = alignlab("runs", "show", run.id)
    assert found.code == 0
    assert f"note      {said}" in found.out if said else "note" not in found.out


def test_metrics_that_memory_can_not_hold_are_left_out(made: Path, alignlab: Run) -> None:
    run = RunDir.of("outputs", run_id("dpo", "0.1", "1"))
    os.truncate(run.metrics, 1 << 40)
    said = "its training metrics can't be read: metrics.jsonl: is larger than"
    shown = alignlab("runs", "show", run.id)
    assert shown.code == 0
    assert f"note      {said}" in shown.out
    assert alignlab("report", "made").code == 0
    assert f"{run.id}: {said}" in Path("outputs/sweeps/made/report.md").read_text()
    assert alignlab("plot", "curves", "made").code == 0


def test_a_run_on_one_screen(made: Path, alignlab: Run) -> None:
    name = run_id("dpo", "0.1", "1")
    RunDir.of("outputs", name).update(status="failed", reason="\x1b[31mred sk-abcdefghijklmnopqrstuv")
    found = alignlab("runs", "show", name)
    assert found.code == 0
    assert len(found.out.splitlines()) < 40
    assert "reason    \\x1b[31mred (hidden)" in found.out
    assert "supersecret" not in found.out
    lines = {line[2:].partition("  ")[0]: line for line in found.out.splitlines()}
    assert "0.69 to 0.64" in lines["training loss"]
    assert "█▇▅▄▂▁" in lines["training loss"]
    assert "0.52 to 0.56" in lines["training accuracy"], "not the accuracy before the first change"
    assert "warning: 3 rows answer" in found.out
    full = alignlab("runs", "show", name, "--full")
    assert "judge.llm.api_key  (hidden)" in full.out
    assert "note" not in lines
    assert "\x1b" not in full.out


@pytest.mark.parametrize(
    ("values", "line"),
    [([1, 2, 3], "▁▅█"), ([2, 2], "▄▄"), ([], ""), ([float("nan")], ""), ([0, 7] * 64, "▄" * 32), ([5], "▄")],
)
def test_a_sparkline(values: list[float], line: str) -> None:
    assert sparkline(values) == line


def test_a_sweep_ends_with_its_page(alignlab: Run) -> None:
    words = ["model=bandit", "data=bandit", "tracking=none", "trainer.max_steps=2", "-m", "objective.beta=0.1,0.3"]
    found = alignlab("train", *words)
    assert found.code == 0, found.err
    assert "; open report.html in a browser" in found.out
    (page,) = Path("outputs/sweeps").glob("*/report.html")
    assert "2 runs: 2 done" in page.read_text()
    assert "Nothing can be told about which is best: " in page.with_suffix(".md").read_text()


def test_a_reason_without_a_gap_is_said_once_for_all_its_runs(
    made: Path, alignlab: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(run: RunDir) -> None:
        raise DataError(f"{run.id}: its world is too large" if run.id.startswith("dpo") else f"{run.id}: it is online")

    monkeypatch.setattr("alignlab.pipeline.gap.write_gap", refuse)
    found = alignlab("plot", "gap", "made")
    assert found.code == 2
    said = [
        f"6 runs, such as {run_id(o, '0.1', '1')}: {why}"
        for o, why in (("dpo", "its world is too large"), ("ipo", "it is online"))
    ]
    assert found.err == f"alignlab: {said[0]}\n  {said[1]}\n"
