"""Rows that teach nothing, repeat others or contradict them are found, left out, and counted by reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alignlab.data.filters import Reason, are_among, count_different, drop_unusable, find, keys_of, read_split
from alignlab.data.rows import AnyRow, Completion, Labelled, LeftOut, Loaded, Message, Pair, Place, Ranking, Split
from alignlab.data.sources.pairs import Pairs
from alignlab.errors import ConfigError


def found(*rows: AnyRow, held_out: list[AnyRow] | None = None) -> dict[str, list[int]]:
    """Key of a reason -> indices of the rows that have it."""
    digests = keys_of(held_out).prompts if held_out else None
    masks = find(rows, keys_of(rows), digests)
    return {reason.key: np.flatnonzero(mask).tolist() for reason, mask in masks.items()}


def graded(*grades: float, prompt: str = "p") -> Ranking:
    return Ranking(prompt, [f"answer {i}" for i in range(len(grades))], list(grades), [True] * len(grades))


def test_pairs() -> None:
    rows = [
        Pair("p", "a", "b"),
        Pair(" p\n", "a", "b"),  # only white space of the prompt differs
        Pair("p", "a", "b "),
        Pair("q", "b", "a"),
        Pair("r", "same", "same"),
        Pair("s", "a", " "),
        Pair("t", "a", "b", margin=0.0),
    ]
    assert found(*rows) == {"empty": [5], "identical": [4], "tie": [6], "duplicate": [1]}


def test_a_pair_both_ways_round() -> None:
    """All rows that contradict each other are found. Another prompt is another question."""
    rows = [Pair("p", "a", "b"), Pair("q", "b", "a"), Pair("p", "b", "a"), Pair("p", "a", "b"), Pair("p", "a", "c")]
    assert found(*rows) == {"swapped": [0, 2, 3], "duplicate": [3]}


def test_labels_that_contradict_each_other() -> None:
    rows = [
        Labelled("p", "a", True), Labelled("p", "a", False), Labelled("p", "b", True), Labelled("q", "a", False),
        Labelled("p", "b", True), Labelled("p", "", True),
    ]  # fmt: skip
    assert found(*rows) == {"empty": [5], "contradictory": [0, 1], "duplicate": [4]}


def test_rankings() -> None:
    same = Ranking("q", ["x", "x"], [1.0, 2.0], [True, True])
    assert found(graded(2, 1), graded(1, 1), graded(1, 2), graded(1, 2), same) == {
        "identical": [4], "tie": [1], "swapped": [0, 2, 3], "duplicate": [3],
    }  # fmt: skip
    turned = Ranking("p", ["answer 1", "answer 0"], [1.0, 2.0], [True, True])
    assert found(graded(2, 1), turned) == {"duplicate": [1]}, "the order of the answers does not matter"


def test_single_answers_and_conversations() -> None:
    turns = [{"role": "user", "content": "p"}]
    rows = [Completion("p", "a"), Completion(turns, "a"), Completion("p", "b")]  # type: ignore[arg-type]
    assert found(*rows) == {"duplicate": [1]}, "a text is one turn of the user"


def test_leaked_prompts() -> None:
    rows = [Completion("p", "a"), Completion("q", "a"), Completion("p ", "b")]
    assert found(*rows, held_out=[Completion("p", "z")]) == {"leaked": [0, 2]}


def loaded(split: Split) -> Loaded[Pair]:
    """Three held-out rows; and eight training rows, each from its own place, after one that was left out."""
    if split == "eval":
        return Loaded([Pair("held out", "a", "b")] * 3)
    rows = [
        ("p", "a", "b"), ("p", "a", "b"), ("q", "a", "b"), ("q", "b", "a"),
        ("held out", "a", "b"), ("held out", "a", "b"), ("r", "a", "a"), ("s", "a", "b"),
    ]  # fmt: skip
    pairs = [Pair(*texts, place=Place("f.jsonl", i)) for i, texts in enumerate(rows, 1)]
    dropped = LeftOut("no answer", Place("f.jsonl", 9))
    return drop_unusable(Loaded(pairs).with_rows(pairs, [dropped]))


@pytest.mark.parametrize(
    ("drop", "left", "counts"),
    [
        ([], 7, {"identical answers": 1}),
        (["duplicate"], 5, {"identical answers": 1, "same as an earlier row": 2}),
        (["swapped"], 5, {"identical answers": 1, "same pair the other way round": 2}),
        (["leaked"], 5, {"identical answers": 1, "prompt is held out": 2}),
        (
            ["duplicate", "swapped", "leaked", "tie"],
            2,
            {
                "identical answers": 1,
                "prompt is held out": 2,
                "same pair the other way round": 2,
                "same as an earlier row": 1,
            },
        ),
    ],
)
def test_rows_are_left_out_and_counted_once(drop: list[str], left: int, counts: dict[str, int]) -> None:
    rest = read_split(loaded, "train", drop)
    assert len(rest.rows) == left
    assert dict(rest.dropped) == counts | {"no answer": 1}
    assert len(rest.left_out) == 1 + sum(counts.values())
    assert rest.left_out[0] == LeftOut("no answer", Place("f.jsonl", 9))


def test_the_places_of_rows_that_are_left_out() -> None:
    rest = read_split(loaded, "train", ["swapped"])
    assert [(row.place.row, row.reason) for row in rest.left_out[1:] if row.place] == [
        (7, "identical answers"),
        (3, "same pair the other way round"),
        (4, "same pair the other way round"),
    ]


def test_held_out_rows_do_not_leak_into_themselves() -> None:
    assert len(read_split(loaded, "eval", ["leaked"]).rows) == 3
    assert len(read_split(loaded, "eval", ["leaked", "duplicate"]).rows) == 1


def test_every_reason_can_be_typed(tmp_path: object) -> None:
    assert Pairs(path="x.jsonl", drop=[reason.key for reason in Reason])
    with pytest.raises(ConfigError) as caught:
        Pairs(path="x.jsonl", drop=["tie", "duplicates"])
    (problem,) = caught.value.problems
    assert problem.type_this == "drop=[duplicate]"
    assert (
        "empty, identical, tie, negative_margin, empty_prompt, null_text, leaked, swapped, contradictory, duplicate"
        in problem.allowed
    )


@pytest.mark.parametrize("size", [0, 1, 7, 500])
def test_keys_are_compared_as_numpy_compares_them(size: int) -> None:
    draws = np.random.default_rng(size)
    keys, others = (draws.integers(0, 300, n).astype(np.uint64) + np.uint64(2**63) for n in (size, 200))
    for first, second in ((keys, others), (others, keys), (keys, keys)):
        np.testing.assert_array_equal(are_among(first, second), np.isin(first, second))
    assert count_different(keys) == len(np.unique(keys))


def test_rankings_that_contradict_each_other_by_other_grades() -> None:
    """Grades with fractions, and grades of other scales: only the order of the answers is compared."""
    assert found(graded(0.1, 0.3), graded(0.3, 0.1)) == {"swapped": [0, 1]}
    assert found(graded(4, 2, 3), graded(0.5, 0.9, 0.7), graded(0.5, 0.7, 0.9)) == {"swapped": [0, 1]}
    assert found(graded(4, 2), graded(9, 8), graded(4, 2, prompt="q")) == {}


def test_prompts_without_text() -> None:
    turns = [
        Message(role="user", content="Hi"),
        Message(role="assistant", content=" "),
        Message(role="user", content="?"),
    ]
    rows = [Pair(" ", "a", "b"), Pair(turns, "a", "b"), Pair("p", "a", "b"), Pair(turns[:1], "a", "b")]
    assert found(*rows) == {"empty_prompt": [0, 1]}


def test_words_for_no_value() -> None:
    rows = [
        Completion("p", "None"),
        Completion("None", "a"),
        Completion("None of them", "null "),
        Completion("q", "nan."),
    ]
    assert found(*rows) == {"null_text": [0, 1, 2]}
    loaded = Loaded([replace(row, place=Place("f.jsonl", i)) for i, row in enumerate(rows, 1)])
    rest = read_split(lambda split: loaded, "train", ["null_text"])
    assert [row.completion for row in rest.rows] == ["nan."]
    assert dict(rest.dropped) == {"a word for no value as text": 3}
