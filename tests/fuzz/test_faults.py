"""The page about faults counts the outcomes, and each test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.faults import FAULTS, page

ROOT = Path(__file__).resolve().parents[2]


def test_the_named_tests_exist() -> None:
    for faults in FAULTS.values():
        for _, _, test in faults:
            file, _, name = test.partition("::")
            assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), test


def test_counts_are_added() -> None:
    rows = [{"kind": "a", "outcome": "accepted", "count": 2}, {"kind": "a", "outcome": "hang", "count": 1}]
    text = page({"files": {"cases": 6, "rows": rows}})
    assert "Of the 6 files, 3 were run, evenly spread." in text
    assert "| files | a | 3 | 2 | 1 |" in text
    assert "| all | | 3 | 2 | 1 |" in text
