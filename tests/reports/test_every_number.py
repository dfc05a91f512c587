"""Every number of a page and of its Markdown twin is computed again from the files of the runs by other code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from alignlab.reports.answer import answers_of
from alignlab.reports.collect import read_sweep
from alignlab.reports.evaluated_sweep import write_sweep
from alignlab.reports.page.write import write_page, write_sweep_page
from alignlab.reports.seeds_table import conclusions
from alignlab.reports.sweep import write_report
from tests.lab_runs import LAB
from tests.reports import said_oracle
from tests.reports.page_oracle import check_evaluation_md, check_page, check_table_md
from tests.reports.raw_numbers import Raw
from tests.reports.rich_sweep import write


@pytest.mark.parametrize("kind", ["lab", "text"])
def test_every_number_of_a_page(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **how: Path(file).touch())
    folder = write(tmp_path, kind)
    page = write_sweep_page(folder)
    check_page(Raw(folder), page.read_text(), page.with_suffix(".md").read_text())
    write_report(folder)
    check_table_md(page.read_text(), (folder / "table.md").read_text())
    runs = [point["run"] for point in read_sweep(folder).done]
    text = write_sweep(folder, {run: tmp_path / f"runs/{run}/evaluation/0a1b2c3d" for run in runs})
    check_evaluation_md(page.read_text(), text)


def test_every_number_against_an_older_sweep(tmp_path: Path) -> None:
    new, old = (
        write(tmp_path / "new", "bare", shift=0.05),
        write(tmp_path / "old", "bare", name="older", version="2.12"),
    )
    page = write_page(read_sweep(new), tmp_path / "page.html", read_sweep(old))
    check_page(Raw(new), page.read_text(), page.with_suffix(".md").read_text(), Raw(old))


def test_every_number_if_the_methods_have_no_kl_in_common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ipo ends at 0.26 nats, where no other method begins."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **how: Path(file).touch())
    folder = write(tmp_path, "lab", farther={"ipo": 0.1})
    page = write_sweep_page(folder)
    check_page(Raw(folder), page.read_text(), page.with_suffix(".md").read_text())
    write_report(folder)
    check_table_md(page.read_text(), (folder / "table.md").read_text())


# case -> (how the sweep is written, a part of the answer, a part of a sentence below the table)
SENTENCES: dict[str, tuple[dict[str, Any], str, str]] = {
    "one method is near the start": (
        {"farther": {"ipo": 0.001}},
        "KLs below 0.01 nats are not compared, and these methods went no further: objective ipo.",
        "near one KL, 0.045 nats, add values of strength: objective dpo above 1; objective ipo below 0.1; ",
    ),
    "all methods are near the start": (
        {"farther": dict.fromkeys(("dpo", "ipo", "kto"), 0.001)},
        "went no further: objective dpo; objective ipo; objective kto.",
        "The methods have no common KL above 0.01 nats, because they hardly moved from the start.",
    ),
    "methods are at different KLs": (
        {"farther": {"dpo": 0.5, "ipo": 2.0, "kto": 9.0}},
        "no KL in common",
        "near one KL, 3 nats, add values of strength: objective dpo below 0.1; objective ipo between 0.1 and 1; ",
    ),
    "one method is farther from the start": (
        {"farther": {"ipo": 3.85}},
        "At a KL of 2.41 nats, objective dpo",
        "Above 2.4 nats nothing is compared, because not all methods got there.",
    ),
    "no method is better than the start": (
        {"shift": -9.0},
        "no method is known to be better than the start at a KL that all of them reached.",
        "nats, no method is known to be better than the start, so none is called best.",
    ),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_every_sentence_on_methods(case: str, tmp_path: Path) -> None:
    how, answer, line = SENTENCES[case]
    folder = write(tmp_path, "lab", **how)
    found, raw = read_sweep(folder), Raw(folder)
    ((_, said),), ((_, settings),) = answers_of(found), found.settings
    assert said == said_oracle.answers(raw)
    assert answer in said[0]
    below = list(conclusions(settings, ""))
    assert below == list(said_oracle.conclusions(raw))
    assert any(line in one for one in below), below


@pytest.mark.slow
def test_every_number_of_a_trained_sweep(alignlab: Callable[..., Any], tmp_path: Path) -> None:
    axes = ["objective=dpo,ipo,kto", "strength=0.05,0.3", "seed=1,2,3"]
    found = alignlab("train", *LAB, "trainer.max_steps=60", "sweep.name=lab", "-m", *axes)
    assert found.code == 0, found.err
    folder = tmp_path / "outputs/sweeps/lab"
    page = folder / "report.html"
    check_page(Raw(folder), page.read_text(), page.with_suffix(".md").read_text())
    check_table_md(page.read_text(), (folder / "table.md").read_text())
