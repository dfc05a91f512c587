"""The record of a sweep has the types that its readers expect, or is refused as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alignlab.errors import DamagedError
from alignlab.integrity import write_sealed
from alignlab.runs.sweep_record import read_sweep_record

GOOD = {"name": "s", "question": "Why?", "axes": ["seed"], "zip": [], "points": [{"run": "dpo-1", "seed": "1"}]}


def test_what_lacks_gets_a_default(tmp_path: Path) -> None:
    write_sealed(tmp_path / "sweep.json", {"points": []})
    assert read_sweep_record(tmp_path) == {"name": tmp_path.name, "question": "", "axes": [], "zip": [], "points": []}
    with pytest.raises(FileNotFoundError):
        read_sweep_record(tmp_path / "none")


@pytest.mark.parametrize(
    "change",
    [
        {"points": None},
        {"points": "x"},
        {"points": [3]},
        {"points": [{"seed": "1"}]},
        {"points": [{"run": "../../etc", "seed": "1"}]},
        {"points": [{"run": "dpo-1"}]},
        {"points": [{"run": "dpo-1", "seed": 1}]},
        {"axes": None},
        {"axes": [3]},
        {"zip": ["seed"]},
        {"name": 3},
        {"question": None},
    ],
)
def test_other_types_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    write_sealed(tmp_path / "sweep.json", GOOD)
    assert read_sweep_record(tmp_path) == GOOD
    write_sealed(tmp_path / "sweep.json", {**GOOD, **change})
    with pytest.raises(DamagedError, match=r"sweep\.json is not the record of a sweep"):
        read_sweep_record(tmp_path)
