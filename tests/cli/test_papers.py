"""`alignlab papers`: the scoreboard, measuring, showing, comparing and exporting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignlab.papers.library import library
from alignlab.papers.record import ClaimFile

Run = Callable[..., Any]


def test_a_claim_from_nothing_to_its_verdict(alignlab: Run, tmp_path: Path) -> None:
    before = alignlab("papers", "feng_2024")
    assert before.code == 0
    assert before.out.startswith("not-run  feng_2024 gradient-field  closed form  the partial derivatives")
    ran = alignlab("papers", "run", "feng_2024")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "feng_2024 gradient-field: reproduced\n\n1 claim of 1 paper: 1 reproduced\n"
    assert (tmp_path / "outputs/papers/feng_2024/gradient-field.json").is_file()
    assert alignlab("papers", "feng_2024").out.startswith("reproduced  feng_2024")
    shown = alignlab("papers", "show", "feng_2024").out
    assert "as expected: ratio at (0.8, 0.3): 0.375, expected 0.375 ± 1e-09 (derived)" in shown


def test_a_verdict_that_is_not_a_success_has_its_reason_and_exit_code_0(alignlab: Run) -> None:
    ran = alignlab("papers", "run", "ipo_2023", "d3-as-printed", "two-actions")
    assert ran.code == 0
    assert (
        "ipo_2023 d3-as-printed: underdetermined\n    this set-up can't decide the claim: largest gradient" in ran.out
    )
    assert ran.out.endswith("2 claims of 1 paper: 1 reproduced, 1 underdetermined\n")


def test_claims_at_full_scale_are_not_measured(alignlab: Run) -> None:
    ran = alignlab("papers", "run", "xu_2024", "safe-rlhf")
    assert (ran.code, ran.out) == (0, "xu_2024 safe-rlhf: needs-scale\n\n1 claim of 1 paper: 1 needs-scale\n")


def test_claims_that_train_online_can_be_left_out(alignlab: Run) -> None:
    ran = alignlab("papers", "run", "tajwar_2024", "--offline")
    assert (ran.code, ran.out) == (0, "\n0 claims of 0 papers\n")


def test_the_scoreboard_of_everything(alignlab: Run) -> None:
    shown = alignlab("papers")
    assert shown.code == 0
    assert "not-run      dpo_2023 theorem-1" in shown.out
    assert "needs-scale  dpo_2023 figure-2-left" in shown.out


def test_export_and_compare(alignlab: Run, tmp_path: Path) -> None:
    alignlab("papers", "run", "feng_2024", "mitchell_2023")
    assert alignlab("papers", "export", "kept").out == "2 records written to kept\n"
    same = alignlab("papers", "compare", "kept", "outputs/papers")
    assert (same.code, same.out) == (0, "2 claims, 0 verdicts different\n")
    (tmp_path / "kept/feng_2024/gradient-field.json").unlink()
    other = alignlab("papers", "compare", "kept", "outputs/papers")
    assert other.code == 3
    assert other.out.startswith("feng_2024 gradient-field: not-run -> reproduced (only in the second folder)\n")
    assert alignlab("papers", "mitchell_2023", "records=kept").out.startswith("reproduced")
    paper = library()["feng_2024"]
    ClaimFile(tmp_path / "outputs/papers", paper.name, paper.claims[0].name).begin(paper, paper.claims[0], ["alignlab"])
    later = alignlab("papers", "export", "later").out
    assert later == "left out: 1 claim whose measurement has not ended\n1 record written to later\n"


def test_mistakes(alignlab: Run) -> None:
    for words, text in (
        (["papers", "ipo_2032"], "no such paper"),
        (["papers", "run"], "which paper?"),
        (["papers", "show"], "which paper?"),
        (["papers", "run", "feng_2024", "objective.beta=1"], "a claim fixes its own settings"),
        (["papers", "feng_2024", "launcher=local"], "a claim fixes its own settings"),
        (["papers", "compare", "one"], "compare needs two folders"),
        (["papers", "compare", "nothing", "here"], "holds no records of claims"),
        (["papers", "export", "somewhere"], "holds no records of claims"),
        (["papers", "export"], "export needs a folder"),
    ):
        result = alignlab(*words)
        assert result.code == 2, words
        assert text in result.err
        assert "Traceback" not in result.err


def test_records_that_can_not_be_written(alignlab: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = alignlab("papers", "run", "feng_2024", "records=file")
    assert result.code == 2
    assert "file can't be written" in result.err
    assert "type: records=<another folder>" in result.err


def test_a_damaged_record_is_told(alignlab: Run, tmp_path: Path) -> None:
    alignlab("papers", "run", "feng_2024")
    file = tmp_path / "outputs/papers/feng_2024/gradient-field.json"
    file.write_text(file.read_text().replace("0.375", "0.475"))
    assert alignlab("papers", "feng_2024").out.startswith("not-run")
    assert "its checksum is wrong" in alignlab("papers", "show", "feng_2024").out
    compared = alignlab("papers", "compare", "outputs/papers", "outputs/papers")
    assert compared.code == 2
    assert "its checksum is wrong" in compared.err
    again = alignlab("papers", "run", "feng_2024")
    assert (again.code, again.out.splitlines()[0]) == (0, "feng_2024 gradient-field: reproduced")


def test_help(alignlab: Run) -> None:
    assert alignlab("papers", "--help").out.startswith("usage: alignlab papers [paper [claim] ...]")
