"""Scores of pairs are read exactly as they were written, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from alignlab.errors import DamagedError, DataError
from alignlab.evaluation.graded_pairs import PAIRS, GradedPair, accuracy_of, read_graded, read_stored, store_graded

FOUR = [GradedPair("which?", f"good {i}", f"bad {i}", "easy") for i in range(4)]
SCORES = [(1.0, 0.5), (0.25, 0.5), (3.0, -1.0), (0.0, 0.0)]


def test_every_flipped_bit_is_seen_or_changes_nothing(tmp_path: Path) -> None:
    found = store_graded(tmp_path, FOUR, SCORES)
    expected = read_stored(tmp_path)
    assert repr(accuracy_of(expected)) == repr(found)
    assert [(row["chosen_score"], row["rejected_score"]) for row in expected] == SCORES
    file, random = tmp_path / PAIRS, np.random.default_rng(0)
    good = file.read_bytes()
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1 << int(random.integers(8))
        file.write_bytes(bytes(bad))
        try:
            assert read_stored(tmp_path) == expected, f"byte {place}"
        except DamagedError:
            continue
    file.write_bytes(b"")
    with pytest.raises(DamagedError):
        read_stored(tmp_path)


def test_kept_pairs_serve_as_a_file_of_pairs_and_older_ones_are_read(tmp_path: Path) -> None:
    store_graded(tmp_path, FOUR, SCORES)
    assert read_graded(str(tmp_path / PAIRS)) == FOUR
    rows = read_stored(tmp_path)
    (tmp_path / PAIRS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_stored(tmp_path) == rows


def test_empty_values_and_texts_of_a_file(tmp_path: Path) -> None:
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    (tmp_path / "p.jsonl").write_text(json.dumps({**pair, "subset": None, "chosen_ended": None}) + "\n")
    assert read_graded(str(tmp_path / "p.jsonl")) == [GradedPair("p", "a", "b")]
    head = "prompt,chosen,rejected,subset,chosen_ended,rejected_ended\n"
    (tmp_path / "p.csv").write_text(head + "p,a,b,,false,TRUE\np,a,b,None,0,\n")
    assert read_graded(str(tmp_path / "p.csv")) == [
        GradedPair("p", "a", "b", "", chosen_ended=False, rejected_ended=True),
        GradedPair("p", "a", "b", "None", chosen_ended=False, rejected_ended=True),
    ]
    (tmp_path / "p.csv").write_text(head + "p,a,b,,no,2\n")
    with pytest.raises(DataError) as caught:
        read_graded(str(tmp_path / "p.csv"))
    assert "row 1: chosen_ended must be true or false, 1 or 0, not 'no'" in str(caught.value)
    assert "row 1: rejected_ended must be true or false, 1 or 0, not '2'" in str(caught.value)
