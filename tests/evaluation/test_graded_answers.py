"""Rows of RewardBench 2: what can be read, what is refused, and what is stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignlab.errors import DamagedError, DataError
from alignlab.evaluation.graded_answers import GradedAnswers
from alignlab.evaluation.graded_pairs import PAIRS, accuracy_of, read_graded, read_stored, store_graded

MATHS = {
    "id": "7", "prompt": "2+2?", "chosen": ["4"], "rejected": ["5", "3", ""],
    "num_correct": 1, "total_completions": 4, "models": ["a", "b"], "subset": "Math", "additional_metadata": None,
}  # fmt: skip
REF = {**MATHS, "id": "ref:0", "prompt": "Red?", "rejected": ["b"], "total_completions": 2, "subset": "Ties"}
TIED = {**REF, "id": "tied:0", "chosen": ["x", "y"], "num_correct": 2, "total_completions": 3}


def written(folder: Path, *rows: dict[str, Any]) -> str:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_rows_of_the_documented_columns(tmp_path: Path) -> None:
    expected = [
        GradedAnswers("7", "2+2?", ("4",), ("5", "3", ""), "Math"),
        GradedAnswers("ref:0", "Red?", ("4",), ("b",), "Ties"),
        GradedAnswers("tied:0", "Red?", ("x", "y"), ("b",), "Ties"),
    ]
    assert read_graded(written(tmp_path, MATHS, REF, TIED)) == expected
    bare = {key: value for key, value in MATHS.items() if key in ("prompt", "chosen", "rejected")}
    assert read_graded(written(tmp_path, bare)) == [GradedAnswers("", "2+2?", ("4",), ("5", "3", ""))]


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([REF, TIED]), tmp_path / "test.parquet")
    assert [row.id for row in read_graded(str(tmp_path / "test.parquet"))] == ["ref:0", "tied:0"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**MATHS, "num_correct": 2}, "num_correct must be 1, the number of answers in chosen, not 2"),
        (
            {**MATHS, "total_completions": 3},
            "total_completions must be 4, the number of answers in chosen and rejected",
        ),
        ({**MATHS, "rejected": []}, "rejected is an empty list: add an answer"),
        ({**MATHS, "chosen": "4"}, "chosen must be a list of texts, as in RewardBench 2, not '4'"),
        ({**MATHS, "chosen": '["4"]'}, "store the list in JSON lines or Parquet"),
        ({**MATHS, "rejected": ["5", None, 3]}, "answer 2 of rejected must be text"),
        (
            {**MATHS, "chosen": ["4", "four"], "num_correct": 2, "total_completions": 5},
            "has 2 correct answers, but only",
        ),
        ({**MATHS, "prompt": None}, "prompt is missing or empty"),
        ({**REF, "id": "3"}, "id is '3', but in Ties it must be ref:<number> or tied:<number>"),
        (
            {**TIED, "chosen": ["x"], "num_correct": 1, "total_completions": 2},
            "tied:0 has 1 correct answer, but a tied",
        ),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        read_graded(written(tmp_path, MATHS, row))
    assert "1 row can't be used\n  row 2: " in str(caught.value)
    assert said in str(caught.value)


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_graded(written(tmp_path, {**MATHS, "num_correct": 0, "total_completions": 9}, {**MATHS, "chosen": []}))
    assert str(caught.value).count("\n  row") == 3


def test_an_id_of_ties_twice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 2: the id ref:00 is used 2 times in Ties") as caught:
        read_graded(written(tmp_path, REF, {**REF, "id": "ref:00"}, TIED))
    assert "2 rows can't be used" in str(caught.value)


def test_pairs_and_lists_in_one_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"two kinds: 1 with one answer each .* 2 with lists .*; row 2 differs"):
        read_graded(written(tmp_path, MATHS, {"prompt": "p", "chosen": "a", "rejected": "b"}, MATHS))


def test_stored_rows_give_the_same_scores_and_can_be_read_again(tmp_path: Path) -> None:
    """Math .5 (the correct answer shares the highest score), Ties 1 + .01 tanh(3 / 1 - 1); the mean is of the two."""
    rows = read_graded(written(tmp_path, MATHS, REF, TIED))
    found = store_graded(tmp_path, rows, [[2.0, 2.0, 1.0, 0.0], [4.0, 1.0], [6.0, 5.0, 1.0]])
    assert found["subsets"]["Math"]["rate"]["value"] == 0.5
    assert found["subsets"]["Ties"]["rate"]["value"] == pytest.approx(1.0096403)
    assert found["rate"]["value"] == pytest.approx((0.5 + 1.0096403) / 2)
    assert found["start"] == 1 / 4 / 2, "equal scores: a quarter of the credit in Math, none in Ties"
    assert repr(accuracy_of(read_stored(tmp_path))) == repr(found)
    assert read_graded(str(tmp_path / PAIRS)) == rows
    text = (tmp_path / PAIRS).read_text()
    (tmp_path / PAIRS).write_text(text.replace("[4.0, 1.0]", "[4.0, 9.0]"))
    with pytest.raises(DamagedError):
        read_stored(tmp_path)
