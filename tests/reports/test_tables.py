"""Tables of runs in Markdown: texts of others stay in their cells."""

from __future__ import annotations

import re

import pandas as pd

from alignlab.reports.tables import csv_of, markdown, table

UNSAFE = "a|b <img src=x onerror=alert(1)> \x1b[31m\u202e\n| c |\\|"


def cells(line: str) -> list[str]:
    return re.split(r"(?<!\\)\|", line)[1:-1]


def test_a_value_of_an_axis_stays_in_its_cell() -> None:
    frame = pd.DataFrame([{"data.path": UNSAFE, "eval/loss": 0.5, "status": "done", "run": f"dpo-{UNSAFE}"}])
    lines = markdown(frame, ["data.path"]).splitlines()
    assert len(lines) == 3
    assert [len(cells(line)) for line in lines] == [4, 4, 4]
    assert [cell.strip() for cell in cells(lines[2])][1:3] == ["0.5000", "done"]
    assert not re.search(r"(?<!\\)<|\x1b|\u202e", lines[2])
    assert "\\x1b[31m\\u202e" in lines[2]


def test_what_needs_no_escape_stays() -> None:
    assert table(["a", "KL < 5"], [["**0.5** [0.1, 0.9]", ""], ["x\\|y", "<0.1"]]).splitlines() == [
        "| a | KL < 5 |",
        "|---|---|",
        "| **0.5** [0.1, 0.9] |  |",
        "| x\\|y | <0.1 |",
    ]


def test_csv_has_all_digits_and_no_formulas() -> None:
    frame = pd.DataFrame({"=x": ["=1+1", None, "-0.5"], "loss": [0.1, 1 / 3, float("nan")], "run": ["a", "b", "c"]})
    assert csv_of(frame).splitlines() == ["'=x,loss,run", "'=1+1,0.1,a", f",{1 / 3!r},b", "-0.5,,c"]
