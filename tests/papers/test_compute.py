"""The cost of claims at the papers' size."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignlab.papers.compute import EXPERIMENTS, Pass, cost_line, full_scale_of, gpu_hours
from alignlab.papers.library import library
from alignlab.papers.record import row_of
from alignlab.papers.scoreboard import in_full


def test_hours_worked_out_by_hand() -> None:
    """6 x 1e9 parameters x 6e7 tokens are 3.6e17 operations: 1,000 s at 40 % of 9e14 per second."""
    trained, scored = Pass("DPO", 1e9, 1e5, 600), Pass("reference", 1e9, 1e5, 600, trained=False)
    assert trained.operations == pytest.approx(3.6e17)
    assert gpu_hours([trained], per_second=9e14, used=0.4) == pytest.approx(1000 / 3600)
    assert scored.operations == pytest.approx(trained.operations / 3)


def test_every_claim_of_an_experiment_exists_and_shows_its_cost() -> None:
    for one in EXPERIMENTS:
        assert 0.05 < one.hours < 500
        for name in one.claims:
            paper, claim = name.split()
            assert full_scale_of(paper, claim) is one
            assert claim in library()[paper].names
    assert full_scale_of("dpo_2023", "theorem-1") is None


def test_the_cost_is_shown(tmp_path: Path) -> None:
    paper = library()["dpo_2023"]
    (claim,) = (claim for claim in paper.claims if claim.name == "figure-2-left")
    text = in_full(row_of(tmp_path, paper, claim))
    full = full_scale_of("dpo_2023", "figure-2-left")
    assert full is not None
    assert f"at the paper's size: {cost_line(full)}" in text
    assert "alignlab train experiment=paper/imdb_gpt2_large takes about" in text


def test_the_page_has_the_hours() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "papers.md").read_text()
    for one in EXPERIMENTS:
        (line,) = (line for line in page.splitlines() if line.startswith(f"| `{one.experiment}` |"))
        assert line.endswith(f"| {one.hours:.2g} |")
