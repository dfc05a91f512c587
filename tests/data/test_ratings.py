"""Rated answers, one a row: answers to the same prompt become a ranking, and what is left out is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignlab.data.sources.ratings import Ratings
from alignlab.errors import DataError

COLUMNS = {"prompt": "query", "completion": "reply", "rating": "stars"}


def source(folder: Path, rows: list[tuple[Any, ...]], **settings: Any) -> Ratings:
    """Rows of (query, reply, stars)."""
    records = [dict(zip(("query", "reply", "stars"), row, strict=True)) for row in rows]
    (folder / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return Ratings(path=str(folder / "rows.jsonl"), columns=COLUMNS, eval_path=str(folder / "rows.jsonl"), **settings)


def test_answers_to_a_prompt_are_one_ranking(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Why?"}]
    rows = [("Why?", "Because.", 5), ("How?", "So.", 1), ("Why? ", "No.", "2"), (turns, "Perhaps.", 3.5),
            ("How?", "Thus.", 4), ("Why?", "No.", 1)]  # fmt: skip
    loaded = source(tmp_path, rows).rankings("train", None)
    assert [(row.completions, row.grades) for row in loaded.rows] == [
        (["Because.", "No.", "Perhaps."], [5.0, 1.5, 3.5]),
        (["So.", "Thus."], [1.0, 4.0]),
    ]
    assert [row.place and row.place.row for row in loaded.rows] == [1, 2]
    pairs = source(tmp_path, rows).pairs("train", None).rows
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("Because.", "No."), ("Thus.", "So.")]


def test_rows_that_compare_nothing_are_counted(tmp_path: Path) -> None:
    rows = [("a", "x", 1), ("a", "y", 2), ("a", "z", None), ("b", "x", 1), ("c", "x", 3), ("c", "y", 3), ("d", " ", 1)]
    loaded = source(tmp_path, rows).rankings("train", None)
    assert [row.completions for row in loaded.rows] == [["x", "y"]]
    assert dict(loaded.dropped) == {
        "no rating": 1, "only one answer to its prompt": 1, "no two grades differ": 1, "empty answer": 1,
    }  # fmt: skip


def test_rows_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    rows = [("a", "x", 1), ("a", "y", "good"), (3, "y", 2), ("a", "z", 2)]
    with pytest.raises(DataError) as caught:
        source(tmp_path, rows).rankings("train", None)
    assert "2 rows can't be used" in str(caught.value)
    assert "row 2: rating must be a finite number, not 'good'" in str(caught.value)
    assert "row 3: " in str(caught.value)
    (tmp_path / "rows.jsonl").write_text('{"query": "a", "reply": "b"}\n')
    with pytest.raises(DataError, match=r"has no column rating"):
        Ratings(path=str(tmp_path / "rows.jsonl"), columns={"prompt": "query", "completion": "reply"}).rankings(
            "train", None
        )
