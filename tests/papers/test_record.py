"""Records: the expectation is written first, and the verdict follows from the record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from alignlab.errors import DamagedError
from alignlab.integrity import write_sealed
from alignlab.papers.claim import Claim, Exact, Paper, digest_of, expectation, near
from alignlab.papers.record import ClaimFile, decision_of, records_below, row_of

CLAIM = Claim("half", "p is a half.", "equation 1", (near("p", 0.5, 0.1, "derived"),), Exact(lambda: {"p": 0.5}))
FULL = replace(CLAIM, name="large", measured_by=None, scale="full")
PAPER = Paper("paper_2023", "Title", "Author et al. 2023", "https://example.org", (CLAIM, FULL))


def written(folder: Path, value: float = 0.5) -> ClaimFile:
    file = ClaimFile(folder, PAPER.name, CLAIM.name)
    file.begin(PAPER, CLAIM, ["-m", "seed=1,2"])
    file.end({"p": [value]}, [{"id": "dpo-1", "seed": "1"}])
    return file


def test_a_record_holds_expectation_values_and_what_made_them(tmp_path: Path) -> None:
    record = written(tmp_path).read()
    assert record["expected"] == [{"quantity": "p", "low": 0.4, "high": 0.6, "provenance": "derived"}]
    assert record["digest"] == digest_of(expectation(CLAIM))
    assert record["measured"] == {"p": [0.5]}
    assert record["runs"] == [{"id": "dpo-1", "seed": "1"}]
    assert {"git", "versions", "machine", "started", "ended", "command"} <= set(record)
    assert "verdict" not in json.dumps(record), "it is decided anew each time"


def test_the_expectation_is_there_before_the_measurement(tmp_path: Path) -> None:
    file = ClaimFile(tmp_path, PAPER.name, CLAIM.name)
    file.begin(PAPER, CLAIM, [])
    assert (file.read()["status"], file.read()["measured"]) == ("running", {})
    row = row_of(tmp_path, PAPER, CLAIM)
    assert (row.decision.verdict, row.decision.why) == ("not-run", "running: the measurement was not finished")


def test_verdicts_of_rows(tmp_path: Path) -> None:
    assert row_of(tmp_path, PAPER, CLAIM).decision.verdict == "not-run"
    assert row_of(tmp_path, PAPER, FULL).decision.verdict == "needs-scale"
    written(tmp_path)
    assert row_of(tmp_path, PAPER, CLAIM).decision.verdict == "reproduced"
    written(tmp_path, 0.9)
    assert row_of(tmp_path, PAPER, CLAIM).decision.verdict == "contradicted"
    ClaimFile(tmp_path, PAPER.name, CLAIM.name).fail("no disk")
    assert row_of(tmp_path, PAPER, CLAIM).decision.why == "failed: no disk"


@pytest.mark.parametrize(
    "other",
    [replace(CLAIM, version=2), replace(CLAIM, expected=(near("p", 0.5, 0.2, "derived"),)),
     replace(CLAIM, premises=(near("q", 0.5, 0.2, "derived"),))],
)  # fmt: skip
def test_another_expectation_needs_another_measurement(tmp_path: Path, other: Claim) -> None:
    written(tmp_path)
    row = row_of(tmp_path, PAPER, other)
    assert row.decision.verdict == "not-run"
    assert row.decision.why == "the expectation has changed since the record was made"


def test_other_words_do_not(tmp_path: Path) -> None:
    written(tmp_path)
    row = row_of(tmp_path, PAPER, replace(CLAIM, words="p is .5.", note="A note.", deviations=("Here: a table.",)))
    assert row.decision.verdict == "reproduced"


def test_numbers_changed_by_hand_do_not_count(tmp_path: Path) -> None:
    file = written(tmp_path, 0.9)
    file.path.write_text(file.path.read_text().replace("0.9", "0.5"))
    row = row_of(tmp_path, PAPER, CLAIM)
    assert row.decision.verdict == "not-run"
    assert "its checksum is wrong" in row.decision.why


def test_a_band_changed_afterwards_does_not_count_either(tmp_path: Path) -> None:
    file = written(tmp_path, 0.9)
    record = file.read()
    record["expected"][0]["high"] = 1.0
    write_sealed(file.path, record)
    with pytest.raises(DamagedError, match="not the one that was written first"):
        file.read()


def test_records_below_a_folder(tmp_path: Path) -> None:
    assert records_below(tmp_path) == {}
    written(tmp_path)
    ((key, record),) = records_below(tmp_path).items()
    assert key == ("paper_2023", "half")
    assert decision_of(record).verdict == "reproduced"
    assert decision_of({}).verdict == "not-run"


@pytest.mark.parametrize(
    "change",
    [{"measured": {"p": ["x"]}}, {"measured": None}, {"runs": [{"id": "../.."}]}, {"runs": [None]}, {"command": "x"},
     {"reason": 3}, {"curves": {"c": {"x": "y"}}}, {"commands": 3}],
)  # fmt: skip
def test_other_types_do_not_count(change: dict[str, object], tmp_path: Path) -> None:
    file = written(tmp_path)
    write_sealed(file.path, {**file.read(), **change})
    row = row_of(tmp_path, PAPER, CLAIM)
    assert row.decision.verdict == "not-run"
    assert f"fields that lack or have a wrong type: {next(iter(change))}" in row.decision.why
