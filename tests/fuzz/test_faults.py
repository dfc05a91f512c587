"""The page about faults counts the outcomes, and each test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.faults import page

ROOT = Path(__file__).resolve().parents[2]


def rows() -> list[tuple[str, list[str]]]:
    """(fault, its tests as `file::name` or `file`) of each row of docs/reliability.md."""
    lines = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8").splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    found = []
    for fault, _, tests in (row for row in cells if len(row) == 3 and row[0] != "fault"):
        names: list[str] = []
        for name in re.findall(r"`([^`]+)`", tests):  # a name without a file is in the file before it
            names.append(name if name.startswith("tests/") else f"{names[-1].partition('::')[0]}::{name}")
        found.append((fault, names))
    return found


def test_the_named_tests_exist() -> None:
    assert len(rows()) >= 60
    assert len({fault for fault, _ in rows()}) == len(rows())
    for fault, tests in rows():
        assert tests, fault
        for test in tests:
            file, _, name = test.partition("::")
            text = (ROOT / file).read_text(encoding="utf-8")
            assert re.search(rf"^def {name or 'test_'}", text, re.MULTILINE), test


def test_counts_are_added() -> None:
    rows = [{"kind": "a", "outcome": "accepted", "count": 2}, {"kind": "a", "outcome": "hang", "count": 1}]
    text = page({"files": {"cases": 6, "rows": rows}})
    assert "Of the 6 files, 3 were run, evenly spread." in text
    assert "| files | a | 3 | 2 | 1 |" in text
    assert "| all | | 3 | 2 | 1 |" in text
