"""docs/papers.md shows what its records say, and its example works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from alignlab.papers.library import library
from alignlab.papers.measuring import computed
from alignlab.papers.page import BEGIN, END, text_of, update
from alignlab.papers.record import records_below
from alignlab.papers.verdict import decide

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_scoreboard_follows_from_the_records_beside_it() -> None:
    page = (DOCS / "papers.md").read_text()
    assert page.partition(BEGIN)[2].partition(END)[0] == f"\n{text_of(DOCS / 'papers')}\n", "type: make papers"


def test_every_record_belongs_to_a_claim_and_holds_no_path() -> None:
    claims = {(paper.name, claim.name) for paper in library().values() for claim in paper.claims}
    found = records_below(DOCS / "papers")
    assert len(found) >= 38
    assert set(found) <= claims
    for record in found.values():
        assert not re.search(r"/(work|home|tmp|root)/|output_root", str(record))


def test_the_text_around_the_scoreboard_stays(tmp_path: Path) -> None:
    page = tmp_path / "papers.md"
    page.write_text(f"before\n{BEGIN}\nearlier text\n{END}\nafter\n")
    update(page)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"\n{END}\nafter\n")
    assert "earlier text" not in text
    assert " papers: " in text


def test_the_example_is_a_claim_that_holds() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "papers.md").read_text(), re.S)
    names: dict[str, object] = {}
    imports = """
import numpy as np
from alignlab.objectives.dpo import DPO
from alignlab.papers.claim import Claim, Exact, near
from alignlab.papers.tabular import Answers
"""
    exec(imports + code.replace("\nClaim(", "\nclaim = Claim("), names)
    claim = names["claim"]
    assert decide(claim.expected, computed(claim.measured_by), kind=claim.kind).verdict == "reproduced"  # type: ignore[attr-defined]


@pytest.mark.parametrize("verdict", ["reproduced", "contradicted", "underdetermined", "needs-scale", "not-run"])
def test_every_verdict_is_explained(verdict: str) -> None:
    assert f"| `{verdict}` |" in (DOCS / "papers.md").read_text()
