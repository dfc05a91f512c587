"""Pages of papers: every claim with its numbers, the paper's figure beside ours, provenance and contradictions."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignlab.papers.claim import Curve, Trained
from alignlab.papers.figure import figures_of
from alignlab.papers.figures import ipo_2023
from alignlab.papers.library import library
from alignlab.papers.printed import SOURCES, Point, contradictions, points_of, series_of
from alignlab.papers.record import ClaimFile, Row, row_of
from alignlab.papers.report import sentence, write_report

RECORDS = Path(__file__).resolve().parents[2] / "docs" / "papers"
PAPERS = [name for name in library() if points_of(name)]


def rows_of(paper: str, folder: Path = RECORDS) -> dict[str, Row]:
    return {claim.name: row_of(folder, library()[paper], claim) for claim in library()[paper].claims}


@pytest.mark.parametrize("paper", PAPERS)
def test_numbers_of_figures_have_a_known_source_and_a_use(paper: str) -> None:
    points = points_of(paper)
    assert {point.provenance for point in points} <= set(SOURCES)
    figures = figures_of(paper)
    used = {source for figure in figures for source in (*figure.sources, *figure.also)}
    assert {point.figure for point in points} == used
    assert all(set(figure.claims) <= set(library()[paper].names) for figure in figures)


def test_some_numbers_of_the_papers() -> None:
    assert len(PAPERS) >= 10
    kl3 = [p.y for p in points_of("dpo_2023") if p.figure == "figure 2 (left)" and p.x == 3]
    assert kl3 == [0.95, 0.65, 0.68]
    (gpt4,) = [p for p in points_of("zheng_2023") if p.figure == "table 2" and p.series == "GPT-4"]
    assert (gpt4.y, gpt4.provenance) == (65.0, "printed")


def test_sources_that_differ_are_told() -> None:
    (readme,) = [
        text for text in contradictions(points_of("dubois_2024")) if "length-controlled at gameability" in text
    ]
    assert readme.endswith(": 10 (table 1, printed-via-notes), 6 (README of the authors' repository, printed).")
    same = Point("figure 1", "reward", "DPO", 1.0, 0.5, "printed")
    assert list(contradictions([same, same])) == []


def test_numbers_read_by_eye_have_open_marks() -> None:
    read = Point("figure 1", "reward", "DPO", 1.0, 0.5, "eye-read-here")
    printed = Point("figure 1", "reward", "PPO", 1.0, 0.5, "printed")
    assert [(series.name, series.open) for series in series_of([read, printed])] == [("DPO", True), ("PPO", False)]


def test_a_curve_of_a_record_is_drawn_and_its_end_without_one(tmp_path: Path) -> None:
    paper = library()["ipo_2023"]
    (claim,) = [claim for claim in paper.claims if claim.name == "bandit-d1"]
    assert isinstance(claim.measured_by, Trained)
    assert claim.measured_by.curves is not None
    name = "objective=ipo strength=0.1: pi(a)"
    for curves, drawn in (
        (None, ((18_000,), "points")),
        ({name: Curve((0, 9), (0.3, 0.9), (0.2, 0.8), (0.4, 1))}, ((0, 9), "line")),
    ):
        file = ClaimFile(tmp_path, "ipo_2023", "bandit-d1")
        file.begin(paper, claim, [])
        file.end({name: [0.95, 0.97]}, curves=curves)
        left, right = ipo_2023._row(
            points_of("ipo_2023"), rows_of("ipo_2023", tmp_path), "bandit-d1", "D1", "ipo", "0.1"
        )
        assert right is not None
        assert (tuple(right.series[0].x), right.series[0].style) == drawn
        assert left.series[0].y == (0.9644, 0.9644)


def test_every_verdict_has_its_reason_as_a_sentence() -> None:
    rows = rows_of("ipo_2023")
    assert sentence(rows["two-actions"]) == "All 8 measured numbers are as the claim says."
    assert sentence(rows["d3-as-printed"]).startswith("This set-up can't decide the claim: largest gradient")
    assert sentence(rows_of("xu_2024")["safe-rlhf"]).startswith("The claim is about the paper's own models")
    assert sentence(rows_of("dpo_2023")["dominates-ideal-rl"]).endswith("expected > 0 (derived).")


def test_pages(tmp_path: Path) -> None:
    every = library()
    (tmp_path / "runs/dpo-1").mkdir(parents=True)
    chosen = [every["zheng_2023"], every["feng_2024"], every["ipo_2023"]]
    index = write_report(list(every.values()), chosen, RECORDS, tmp_path / "runs", tmp_path / "pages")
    text = index.read_text()
    assert 'href="zheng_2023.html#both-orders"' in text
    assert 'href="gao_2022.html' not in text, "only pages that exist are linked to"
    assert "[both-orders](zheng_2023.md#both-orders)" in index.with_suffix(".md").read_text()
    page = (tmp_path / "pages/zheng_2023.html").read_text()
    assert "2 claims: 1 reproduced, 1 needs-scale." in page
    assert 'id="figure-consistency-0-left"' in page
    assert 'id="figure-consistency-0-right"' in page
    assert "<td>printed</td>" in page
    assert re.search(r'<td class="number" data-value="0\.\d+" data-low="0\.\d+" data-high="0\.\d+">', page)
    plain = (tmp_path / "pages/feng_2024.html").read_text()
    assert len(plain) < 100_000, "a page without figures does not carry the library"
    assert "alignlab papers run feng_2024 gradient-field --again" in plain
    twin = (tmp_path / "pages/ipo_2023.md").read_text()
    assert "**underdetermined**: This set-up can't decide the claim" in twin
    assert "| figure 1 (D1) | pi on D1 | IPO tau=0.1 | a | 0.9644 | derived |" in twin
    assert "Deviations from the paper:" in twin
    assert "## Remarks on the sources" in twin


def test_a_run_that_is_there_has_a_link(tmp_path: Path) -> None:
    paper = library()["ipo_2023"]
    (claim,) = [claim for claim in paper.claims if claim.name == "bandit-d1"]
    file = ClaimFile(tmp_path / "papers", "ipo_2023", "bandit-d1")
    file.begin(paper, claim, [])
    file.end({}, [{"id": name, "status": "done", "seed": "0"} for name in ("ipo-1", "ipo-2")])
    (tmp_path / "runs/ipo-1").mkdir(parents=True)
    write_report([paper], [paper], tmp_path / "papers", tmp_path / "runs", tmp_path / "reports/papers")
    page = (tmp_path / "reports/papers/ipo_2023.html").read_text()
    assert '<a href="../../runs/ipo-1/">ipo-1</a>' in page
    assert "<td>ipo-2</td>" in page


def test_the_command(alignlab: Callable[..., Any], tmp_path: Path) -> None:
    written = alignlab("papers", "report", "feng_2024", f"records={RECORDS}")
    assert (written.code, written.err) == (0, "")
    assert written.out.splitlines()[0] == "written to outputs/reports/papers/feng_2024.html and feng_2024.md"
    assert (tmp_path / "outputs/reports/papers/index.html").is_file()
    (tmp_path / "file").touch()
    wrong = alignlab("papers", "report", "feng_2024", "to=file")
    assert (wrong.code, "type: to=<another folder>" in wrong.err) == (2, True)
    unknown = alignlab("papers", "run", "feng_2024", "to=here")
    assert (unknown.code, "for `report` to" in unknown.err) == (2, True)
