"""Every number of a page and of its Markdown twin is computed again from the files of the runs by other code."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignlab.reports.collect import read_sweep
from alignlab.reports.page.write import write_page, write_sweep_page
from tests.reports.page_oracle import check_page
from tests.reports.raw_numbers import Raw
from tests.reports.rich_sweep import write


@pytest.mark.parametrize("kind", ["lab", "text", "bare"])
def test_every_number_of_a_page(kind: str, tmp_path: Path) -> None:
    folder = write(tmp_path, kind)
    page = write_sweep_page(folder)
    check_page(Raw(folder), page.read_text(), page.with_suffix(".md").read_text())


def test_every_number_against_an_older_sweep(tmp_path: Path) -> None:
    new, old = (
        write(tmp_path / "new", "bare", shift=0.05),
        write(tmp_path / "old", "bare", name="older", version="2.12"),
    )
    page = write_page(read_sweep(new), tmp_path / "page.html", read_sweep(old))
    check_page(Raw(new), page.read_text(), page.with_suffix(".md").read_text(), Raw(old))
