"""The classifier of words: its features, its accuracy on held-out texts, and what decides its verdicts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from alignlab.errors import ConfigError, DataError
from alignlab.judges.base import Answer
from alignlab.judges.word_classifier import Weights, WordClassifier, columns_of, fit, grams


def reviews(file: Path, count: int = 24) -> WordClassifier:
    """Half of the reviews are good; the last third is held out. Two held-out reviews have the wrong label."""
    rows = []
    for i in range(count):
        good, held_out = i % 2 == 0, i >= count * 2 // 3
        wrong = i in (count - 1, count - 2)
        text = f"film {i} was {'great' if good else 'awful'} again"
        rows.append({"split": "test" if held_out else "train", "text": text, "label": int(good != wrong)})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return WordClassifier(path=str(file))


def answer(prompt: str, text: str) -> Answer:
    return Answer("1", (prompt,), (text,))


def test_words_and_pairs_of_words() -> None:
    assert grams("It's GOOD.<br />Good!") == ["it's", "good", "good", "it's good", "good good"]
    columns, counts = columns_of("good good film", {"good": 0, "bad": 1, "good film": 2})
    assert dict(zip(columns.tolist(), counts.tolist(), strict=True)) == {0: 2.0, 2: 1.0}


def test_a_score_worked_out_by_hand() -> None:
    """Counts 2 and 1, rarities 1 and 2: features 1 + ln 2 and 2, divided by their norm."""
    weights = Weights({"good": 0, "bad": 1}, np.array([1.0, 2.0]), np.array([3.0, -1.0]), 0.5)
    first, second = 1 + np.log(2), 2.0
    expected = (3 * first - second) / np.hypot(first, second) + 0.5
    assert weights.log_odds(["good bad good", "neither"]).tolist() == pytest.approx([expected, 0.5])


def test_it_is_fitted_to_the_training_split_and_measured_on_the_other(tmp_path: Path) -> None:
    judge = reviews(tmp_path / "reviews.jsonl")
    fitted = judge.fitted()
    assert (fitted.accuracy, fitted.held_out) == (0.75, 8)
    assert "film" in fitted.places
    assert "film 3" not in fitted.places, "it occurs once"
    good, bad = judge.score([answer("This film", " was great"), answer("This film", " was awful")])
    assert good > 0 > bad
    assert judge.fitted() is fitted, "once in a process"


def test_prompt_and_answer_are_one_text(tmp_path: Path) -> None:
    judge = reviews(tmp_path / "reviews.jsonl")
    whole, split = judge.score([answer("", "it was great"), answer("it was gr", "eat")])
    assert whole == split != 0


def test_the_texts_decide_its_fingerprint_and_not_their_place(tmp_path: Path) -> None:
    one, other = reviews(tmp_path / "one.jsonl"), reviews(tmp_path / "other.jsonl")
    assert one.fingerprint() == other.fingerprint()
    assert one.fingerprint() != reviews(tmp_path / "more.jsonl", 30).fingerprint()
    assert one.fingerprint() != WordClassifier(path=one.path, penalty=1e-3).fingerprint()


def test_texts_that_can_not_be_classified(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all texts have the same label"):
        fit(["a film", "a film", "a film"], np.array([True, True, True]), 1e-3)
    with pytest.raises(DataError, match="no word occurs in at least 3 of the 2 texts"):
        fit(["one", "two"], np.array([True, False]), 1e-3)
    (problem,) = WordClassifier(path=str(tmp_path / "absent.jsonl")).missing()
    assert problem.key == "path"
    with pytest.raises(ConfigError) as wrong:
        WordClassifier(path="x", penalty=0.0, eval_split="train")
    assert [problem.key for problem in wrong.value.problems] == ["eval_split", "penalty"]
