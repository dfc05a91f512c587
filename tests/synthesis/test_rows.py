"""Rows from scored answers: every form with exact rows, and everything that is left out is counted."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from alignlab.synthesis.prompts import AskedPrompt, OwnAnswer
from alignlab.synthesis.rows import Scored, distinct, judged_rows, rows_against_data
from alignlab.synthesis.samples import SampledAnswer
from alignlab.synthesis.settings import Synthesis

FOUR = [Scored("a", True, 2.0), Scored("b", False, 5.0), Scored("c", True, -1.0), Scored("d", True, 4.0)]


Made = tuple[list[dict[str, Any]], dict[str, int]]


def made(answers: list[Scored], tie_margin: float = 0.0, **settings: Any) -> Made:
    left_out: Counter[str] = Counter()
    return list(judged_rows("p", answers, Synthesis(**settings), tie_margin, left_out)), dict(left_out)


def test_the_best_answer_against_the_worst() -> None:
    assert made(FOUR) == (
        [
            {
                "prompt": "p", "chosen": "b", "rejected": "c", "chosen_ended": False, "rejected_ended": True,
                "margin": 6.0, "score_chosen": 5.0, "score_rejected": -1.0,
            }
        ],
        {},
    )  # fmt: skip


def test_every_two_answers_with_a_margin() -> None:
    rows, left_out = made(FOUR, pairs="all", min_margin=2.0)
    assert [(row["chosen"], row["rejected"], row["margin"]) for row in rows] == [
        ("b", "a", 3.0), ("b", "c", 6.0), ("d", "a", 2.0), ("d", "c", 5.0), ("a", "c", 3.0),
    ]  # fmt: skip
    assert left_out == {"pairs with a margin below synthesis.min_margin": 1}, "b against d"


def test_ties_are_left_out() -> None:
    same = [Scored("a", True, 1.0), Scored("b", True, 1.0)]
    assert made(same) == ([], {"tied pairs": 1})
    near = [Scored("a", True, 1.0), Scored("b", True, 1.5)]
    assert made(near, tie_margin=0.5) == ([], {"tied pairs": 1})
    assert len(made(near, tie_margin=0.4)[0]) == 1
    assert made(same, form="rankings") == ([], {"prompts with equal scores": 1})
    assert made(same, form="labels") == ([], {"samples at the median score of their prompt": 2})


def test_labels_by_the_median_and_by_a_threshold() -> None:
    halves, left_out = made([*FOUR, Scored("e", True, 3.0)], form="labels")
    assert [(row["completion"], row["label"], row["score"]) for row in halves] == [
        ("a", False, 2.0), ("b", True, 5.0), ("c", False, -1.0), ("d", True, 4.0),
    ]  # fmt: skip
    assert left_out == {"samples at the median score of their prompt": 1}
    assert [row["ended"] for row in halves] == [True, False, True, True]
    by_threshold, left_out = made(FOUR, form="labels", threshold=4.0)
    assert [row["label"] for row in by_threshold] == [False, True, False, True]
    assert left_out == {}
    assert len(made(FOUR[:1], form="labels", threshold=4.0)[0]) == 1, "one answer is enough"


def test_rankings() -> None:
    rows, left_out = made(FOUR, form="rankings")
    (row,) = rows
    assert (row["completions"], row["grades"]) == (["a", "b", "c", "d"], [2.0, 5.0, -1.0, 4.0])
    assert (row["ended"], left_out) == ([True, False, True, True], {})


def test_answers_without_a_score_are_counted() -> None:
    rows, left_out = made([*FOUR[:2], Scored("x", True, math.nan)])
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("b", "a")]
    assert left_out == {"samples without a score": 1}
    assert made([FOUR[0], Scored("x", True, math.nan)]) == (
        [],
        {"samples without a score": 1, "prompts with too few different answers": 1},
    )


def test_empty_and_repeated_samples_are_counted() -> None:
    left_out: Counter[str] = Counter()
    texts = ["a", " ", "b", "a", "", "a"]
    assert [a.text for a in distinct((SampledAnswer(text, True) for text in texts), left_out)] == ["a", "b"]
    assert left_out == {"empty samples": 2, "samples that repeat another": 2}


def against(own: list[str], samples: list[str], **settings: Any) -> Made:
    left_out: Counter[str] = Counter()
    asked = AskedPrompt("p", tuple(OwnAnswer(text, True) for text in own))
    answers = [SampledAnswer(text, False) for text in samples]
    how = Synthesis(preferred="data", **settings)
    return list(rows_against_data(asked, answers, how, left_out)), dict(left_out)


def test_the_datas_answer_against_the_samples() -> None:
    rows, left_out = against(["good", "fine"], ["bad", "good", "poor"], form="labels")
    assert [(row["completion"], row["label"], row["ended"]) for row in rows] == [
        ("good", True, True), ("fine", True, True), ("bad", False, False), ("poor", False, False),
    ]  # fmt: skip
    assert left_out == {"samples that equal an answer of the data": 1}
    assert "score" not in rows[0]
    (pair,) = against(["good", "fine"], ["bad", "poor"])[0]
    assert (pair["chosen"], pair["rejected"], pair["rejected_ended"]) == ("good", "bad", False)
    assert "margin" not in pair
    assert len(against(["good", "fine"], ["bad", "poor"], pairs="all")[0]) == 4
    (ranking,) = against(["good"], ["bad", "poor"], form="rankings")[0]
    assert (ranking["completions"], ranking["grades"]) == (["good", "bad", "poor"], [1.0, 0.0, 0.0])
    assert against([], ["bad"]) == ([], {"prompts without a good answer in the data": 1})
    assert against(["good"], ["good"])[1]["prompts with too few different answers"] == 1


@pytest.mark.parametrize("form", ["pairs", "rankings"])
def test_one_sample_cannot_be_compared(form: str) -> None:
    assert made(FOUR[:1], form=form) == ([], {"prompts with too few different answers": 1})
