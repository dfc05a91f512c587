"""Every number of a page and of its Markdown twin is computed again from the files of the runs by other code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from alignlab.reports.collect import read_sweep
from alignlab.reports.evaluated_sweep import write_sweep
from alignlab.reports.page.write import write_page, write_sweep_page
from alignlab.reports.sweep import write_report
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
    if kind == "lab":  # all prompts of every run have a verdict, so both texts are about the same numbers
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


@pytest.mark.slow
def test_every_number_of_a_trained_sweep(alignlab: Callable[..., Any], tmp_path: Path) -> None:
    axes = ["objective=dpo,ipo,kto", "strength=0.05,0.3", "seed=1,2,3"]
    found = alignlab("train", "experiment=lab_dpo", "tracking=none", "sweep.name=lab", "-m", *axes)
    assert found.code == 0, found.err
    folder = tmp_path / "outputs/sweeps/lab"
    page = folder / "report.html"
    check_page(Raw(folder), page.read_text(), page.with_suffix(".md").read_text())
    check_table_md(page.read_text(), (folder / "table.md").read_text())
