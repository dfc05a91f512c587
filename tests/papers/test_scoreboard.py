"""The scoreboard as text, one claim in full, and two sets of records side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from alignlab.papers.claim import Claim, Exact, Paper, Sampled, above, near
from alignlab.papers.record import ClaimFile, records_below, row_of
from alignlab.papers.scoreboard import differences, in_full, markdown, scoreboard, tally

EXACT = Claim("half", "p is a half.", "equation 1", (near("p", 0.5, 0.1, "derived"),), Exact(lambda: {"p": 0.5}))
LEAD = Claim(
    "lead", "A | B: A leads.", "figure 2", (above("A - B", 0.0, "printed"),), Sampled(lambda seed: {"A - B": -1.0}),
    deviations=("Paper: a language model. Here: a table.",), note="A is an ideal here.",
)  # fmt: skip
LARGE = Claim("large", "A leads.", "table 3", (above("A - B", 0.0, "printed"),), None, scale="full")
PAPER = Paper(
    "paper_2023", "Title", "Author et al. 2023", "https://example.org", (EXACT, LEAD, LARGE), ("2 is not 3.",)
)


def fill(folder: Path, p: float, lead: float) -> None:
    for claim, values in (
        (EXACT, {"p": [p], "q": [3.0]}),
        (LEAD, {"A - B": [lead - 0.1, lead, lead, lead, lead + 0.1]}),
    ):
        file = ClaimFile(folder, PAPER.name, claim.name)
        file.begin(PAPER, claim, [])
        file.end(values)


def test_one_line_a_claim_and_a_tally(tmp_path: Path) -> None:
    fill(tmp_path, 0.5, -1.0)
    rows = [row_of(tmp_path, PAPER, claim) for claim in PAPER.claims]
    assert scoreboard(rows).splitlines() == [
        "reproduced    paper_2023 half   closed form  equation 1",
        "contradicted  paper_2023 lead   estimator    figure 2",
        "needs-scale   paper_2023 large  full scale   table 3",
        "",
        "3 claims of 1 paper: 1 reproduced, 1 contradicted, 1 needs-scale",
    ]
    assert tally(rows[:1]) == "1 claim of 1 paper: 1 reproduced"


def test_a_claim_in_full(tmp_path: Path) -> None:
    fill(tmp_path, 0.5, -1.0)
    text = in_full(row_of(tmp_path, PAPER, LEAD))
    assert "  deviation: Paper: a language model. Here: a table." in text
    assert "  not as expected: A - B: -1 ± 0.088, expected > 0 (printed)" in text
    assert "  why: A - B: -1 ± 0.088, expected > 0 (printed)" in text
    assert "  note: A is an ideal here." in text
    assert "  also measured: q: 3" in in_full(row_of(tmp_path, PAPER, EXACT))
    assert "  expected: A - B > 0 (printed)" in in_full(row_of(tmp_path, PAPER, LARGE))


def test_a_premise_is_told_from_an_expectation(tmp_path: Path) -> None:
    claim = replace(EXACT, premises=(above("q", 5.0, "derived"),))
    file = ClaimFile(tmp_path, PAPER.name, claim.name)
    file.begin(PAPER, claim, [])
    file.end({"p": [0.5], "q": [3.0]})
    text = in_full(row_of(tmp_path, PAPER, claim))
    assert "paper_2023 half: underdetermined" in text
    assert "  premise fails: q: 3, expected > 5 (derived)" in text
    assert "  as expected: p: 0.5" in text


def test_differences_between_two_sets_of_records(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    fill(one, 0.5, -1.0)
    fill(other, 0.5, 1.0)
    assert list(differences(records_below(one), records_below(one))) == []
    assert list(differences(records_below(one), records_below(other))) == [
        ("paper_2023 lead: contradicted -> reproduced (measured values differ: A - B)", True)
    ]
    fill(other, 0.55, -1.0)
    assert list(differences(records_below(one), records_below(other))) == [
        ("paper_2023 half: reproduced (measured values differ: p)", False)
    ]


def test_differences_tell_a_changed_expectation_and_a_missing_record(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    fill(one, 0.5, -1.0)
    file = ClaimFile(other, PAPER.name, EXACT.name)
    file.begin(PAPER, replace(EXACT, expected=(near("p", 0.7, 0.1, "derived"),), version=2), [])
    file.end({"p": [0.5], "q": [3.0]})
    assert list(differences(records_below(one), records_below(other))) == [
        ("paper_2023 half: reproduced -> contradicted (the expectation changed)", True),
        ("paper_2023 lead: contradicted -> not-run (only in the first folder)", True),
    ]


def test_markdown_says_what_was_not_reproduced_and_why(tmp_path: Path) -> None:
    fill(tmp_path, 0.5, -1.0)
    text = markdown([row_of(tmp_path, PAPER, claim) for claim in PAPER.claims], {PAPER.name: PAPER})
    link = "[Author et al. 2023](https://example.org)"
    row = f"| {link} | `paper_2023 lead` | A \\| B: A leads. | figure 2 | estimator | contradicted |"
    assert row in text.splitlines()
    assert "**`paper_2023 lead`**: contradicted. A | B: A leads." in text
    assert "- Measured: A - B: -1 ± 0.088, expected > 0 (printed)." in text
    assert "- Author et al. 2023: 2 is not 3." in text
    assert "**`paper_2023 half`**" not in text
