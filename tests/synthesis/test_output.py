"""Rows that were made before are found again only if their provenance is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alignlab.integrity import read_sealed, write_sealed
from alignlab.synthesis.output import copy_rows, finished, problems_of_copy, provenance_file, write_rows

PROVENANCE = {
    "rows": 1, "samples": 2, "cut_off": 0, "cut_prompts": 0, "unjudged": 0, "left_out": {}, "read_by": "pairs",
    "names": {"policy": "tiny"}, "prompts": {"number": 1, "of": 1}, "settings": {"max_new_tokens": 8},
}  # fmt: skip


@pytest.mark.parametrize("change", [{}, {"file": 3}, {"file": {}}, {"names": []}, {"prompts": {}}, {"unjudged": "x"}])
def test_a_provenance_of_another_form_is_set_aside(
    change: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "pairs.jsonl"
    write_rows(file, [{"prompt": "a", "chosen": "b", "rejected": "c"}], PROVENANCE)
    record = provenance_file(file)
    write_sealed(record, {**read_sealed(record), **change})
    found = finished(file)
    assert (found is not None) == (not change)
    assert record.exists() == (not change)
    assert bool(change) == ("pairs.provenance.json is damaged" in caplog.text)


def test_a_copy_replaces_copies_only(tmp_path: Path) -> None:
    """A file of the user, a changed copy and a provenance of something else are refused."""
    file, to = tmp_path / "pairs.jsonl", tmp_path / "mine.jsonl"
    write_rows(file, [{"prompt": "a", "chosen": "b", "rejected": "c"}], PROVENANCE)
    assert not list(problems_of_copy(to))
    copy_rows(file, to)
    assert not list(problems_of_copy(to)), "the same command may be typed again"
    to.write_text("mine")
    (changed,) = problems_of_copy(to)
    assert "would replace" in changed.allowed
    assert str(to) in changed.allowed
    provenance_file(to).unlink()
    assert len(list(problems_of_copy(to))) == 1
    to.unlink()
    provenance_file(to).write_text("{}")
    (other,) = problems_of_copy(to)
    assert str(provenance_file(to)) in other.allowed
    (tmp_path / "run.json").touch()
    (inside,) = problems_of_copy(tmp_path / "new.jsonl")
    assert "lies in the folder of a run" in inside.allowed
