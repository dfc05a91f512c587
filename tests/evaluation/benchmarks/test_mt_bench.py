"""MT-Bench: prompts are byte for byte FastChat's, verdicts as stored, scores by category; FastChat's file formats."""

from __future__ import annotations

import gzip
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from alignlab.errors import DataError
from alignlab.evaluation.benchmarks.files import write_rows
from alignlab.evaluation.benchmarks.mt_bench import (
    Question,
    prompt_of,
    read_answers,
    read_questions,
    summarise,
    to_compare,
    to_rate,
    write_answers,
)
from alignlab.judges.base import Turns
from alignlab.judges.templates import Template, choose, read_templates, values_of


@pytest.fixture
def folder(shared_data: Path) -> Path:
    return shared_data / "mt_bench"


def rows_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture
def questions(folder: Path) -> dict[str, Question]:
    found = read_questions(folder / "question.jsonl", folder / "reference_answer_gpt-4.jsonl")
    assert len(found) == 80
    assert sum(bool(q.reference) for q in found) == 30
    return {q.id: q for q in found}


@pytest.fixture
def templates(folder: Path) -> tuple[Template, ...]:
    found = read_templates(str(folder / "judge_prompts.jsonl"))
    assert len(found) == 8
    return found


@pytest.fixture
def answers(folder: Path) -> dict[str, dict[str, Turns]]:
    found: dict[str, dict[str, Turns]] = {}
    for row in rows_of(folder / "model_answers.jsonl.gz"):
        found.setdefault(row["model_id"], {})[str(row["question_id"])] = tuple(row["choices"][0]["turns"])
    assert sorted(map(len, found.values())) == [80] * 13
    return found


def judged_text(template: Template, prompt: str) -> tuple[str, ...]:
    """The answers in a stored prompt, for models whose stored answers are newer than the prompt."""
    fixed = re.escape(template.text)
    for place in template.places:
        group = "(?s:.*)" if place.startswith(("question", "ref")) else f"(?P<{place}>(?s:.*))"
        fixed = fixed.replace(re.escape("{" + place + "}"), group, 1)
        fixed = fixed.replace(re.escape("{" + place + "}"), "(?s:.*)")
    found = re.fullmatch(fixed, prompt)
    assert found is not None
    return tuple(found[name] for name in ("answer", "answer_1", "answer_2") if name in template.places)


def test_prompts_for_single_grading(
    folder: Path, questions: dict[str, Question], templates: tuple[Template, ...], answers: dict[str, dict[str, Turns]]
) -> None:
    """All 960 prompts are equal byte for byte. 800 use stored answers; 160 use older ones, taken from the prompt."""
    stored, neutral = 0, 0
    rows = rows_of(folder / "judgments_single_gpt-4.jsonl.gz")
    for row in rows:
        question, turn = questions[str(row["question_id"])], row["turn"]
        template = choose(templates, "single", turns=turn, reference=bool(question.reference))
        assert template.name == row["judge"][1]
        reference = question.reference[:turn]

        def prompt(answer: Turns, neutralise: bool = False) -> str:
            values = values_of(question.turns[:turn], answer, None, reference)  # noqa: B023
            return template.messages(values, neutralise=neutralise)[-1]["content"]  # noqa: B023

        answer = answers[row["model"]][question.id][:turn]
        if prompt(answer) == row["user_prompt"]:
            stored += 1
        else:
            answer = judged_text(template, row["user_prompt"])
            assert prompt(answer) == row["user_prompt"]
        neutral += prompt(answer, neutralise=True) == row["user_prompt"]
    assert (len(rows), stored) == (960, 800)
    assert 700 < neutral < 960, "only answers that hold delimiters are changed by neutralising"


def test_prompts_for_comparison(
    folder: Path, questions: dict[str, Question], templates: tuple[Template, ...], answers: dict[str, dict[str, Turns]]
) -> None:
    rows = rows_of(folder / "judgments_pair_gpt-4.jsonl.gz")
    assert len(rows) == 75
    for row in rows:
        question = questions[str(row["question_id"])]
        template = choose(templates, "pairwise", turns=1, reference=bool(question.reference))
        assert template.name == row["judge"][1]
        one, other = (answers[row[f"model_{i}"]][question.id][:1] for i in (1, 2))
        for game, (a, b) in enumerate([(one, other), (other, one)], 1):
            values = values_of(question.turns[:1], a, b, question.reference[:1])
            assert template.fill(template.text, values, neutralise=False) == row[f"g{game}_user_prompt"]


def test_all_ratings_are_read_as_stored(folder: Path, templates: tuple[Template, ...]) -> None:
    rows = rows_of(folder / "judgments_single_gpt-4.jsonl.gz")
    by_name = {t.name: t for t in templates}
    found = [by_name[row["judge"][1]].parse(row["judgment"]) for row in rows]
    assert [-1 if math.isnan(score) else score for score in found] == [row["score"] for row in rows]
    assert sum(map(math.isnan, found)) == 1


def test_all_verdicts_are_read_as_stored(folder: Path, templates: tuple[Template, ...]) -> None:
    by_name, count = {t.name: t for t in templates}, 0
    for row in rows_of(folder / "judgments_pair_gpt-4.jsonl.gz"):
        for game, first in ((1, "model_1"), (2, "model_2")):
            score = by_name[row["judge"][1]].parse(row[f"g{game}_judgment"])
            second = "model_2" if first == "model_1" else "model_1"
            verdict = "error" if math.isnan(score) else {1.0: first, 0.5: "tie", 0.0: second}[score]
            assert verdict == row[f"g{game}_winner"], row["question_id"]
            count += 1
    assert count == 150


def test_scores_by_category(folder: Path, questions: dict[str, Question]) -> None:
    """The means of phi-3-dpo's 160 ratings equal a plain computation."""
    rows = [r for r in rows_of(folder / "judgments_single_gpt-4.jsonl.gz") if r["model"] == "phi-3-dpo"]
    ratings = {f"{r['question_id']}-{r['turn']}": float(r["score"]) for r in rows}
    found = summarise(list(questions.values()), ratings)
    assert found.score.value == pytest.approx(sum(r["score"] for r in rows) / 160)
    assert found.score.n == 80
    second = [r["score"] for r in rows if r["turn"] == 2]
    assert found.by_turn[2].value == pytest.approx(sum(second) / 80)
    maths = [r["score"] for r in rows if questions[str(r["question_id"])].category == "math"]
    assert found.by_category["math"].value == pytest.approx(sum(maths) / 20)
    assert (found.by_category["math"].n, len(found.by_category), found.invalid) == (10, 8, 0)
    ratings["81-1"] = float("nan")
    assert summarise(list(questions.values()), ratings).invalid == 1
    with pytest.raises(DataError, match="not in the set: 999"):
        summarise(list(questions.values()), {"999-1": 3.0})


def test_rows_for_a_judge(questions: dict[str, Question], answers: dict[str, dict[str, Turns]]) -> None:
    rows = to_rate(list(questions.values()), answers["gpt-4"])
    assert len({row.id for row in rows}) == 160
    first, second = (next(r for r in rows if r.id == f"101-{turn}") for turn in (1, 2))
    assert (len(first.prompt), len(first.answer), len(first.reference)) == (1, 1, 1)
    assert (len(second.prompt), len(second.answer), len(second.reference)) == (2, 2, 2)
    assert next(r for r in rows if r.id == "81-1").reference == ()
    pairs = to_compare(list(questions.values()), answers["gpt-4"], answers["claude-v1"])
    assert (pairs[0].a, pairs[0].b) == (answers["gpt-4"]["81"][:1], answers["claude-v1"]["81"][:1])
    assert prompt_of(pairs[0].id) == "81"
    with pytest.raises(DataError, match="question 81 has 2 turns, but 0 answers"):
        to_rate(list(questions.values()), {})


def test_answers_go_out_and_come_back(answers: dict[str, dict[str, Turns]], tmp_path: Path) -> None:
    write_answers(tmp_path / "our-run.jsonl", answers["gpt-4"], "our-run")
    assert read_answers(tmp_path / "our-run.jsonl") == answers["gpt-4"]
    row = json.loads((tmp_path / "our-run.jsonl").read_text(encoding="utf-8").split("\n")[0])
    assert (row["question_id"], row["model_id"]) == (81, "our-run")
    write_rows(tmp_path / "two.jsonl", [{**row, "model_id": name} for name in ("x", "y")])
    with pytest.raises(DataError, match="several models: x, y"):
        read_answers(tmp_path / "two.jsonl")


ONE = {"question_id": 1, "category": "math", "turns": ["a?", "b?"]}
SAID = {"question_id": 1, "model_id": "m", "choices": [{"turns": ["a", "b"]}]}


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"turns": ["a", "b", "c"]}, "row 2: turns must be one text or two, not 3"),
        ({"turns": "abc"}, "row 2: turns must be a list of texts, not 'abc'"),
        ({"turns": ["a", " "]}, "row 2: turn 2 is empty"),
        ({"question_id": 1}, "row 2: question_id 1 is that of an earlier row"),
        ({"question_id": "1"}, "row 2: question_id 1 is that of an earlier row"),
        ({"question_id": None}, "row 2: question_id must be a number or a text, not None"),
    ],
)
def test_questions_that_can_not_be_used(row: dict[str, Any], text: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "q.jsonl", [ONE, {**ONE, "question_id": 2, **row}])
    with pytest.raises(DataError) as caught:
        read_questions(tmp_path / "q.jsonl")
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"choices": []}, "row 2: choices must be a list that begins with {turns: [...]}, not []"),
        ({"choices": None}, "row 2: choices must be a list"),
        ({"choices": [{}]}, "row 2: choices must be a list"),
        ({"choices": [{"turns": "abc"}]}, "row 2: turns must be a list of texts, not 'abc'"),
        ({"choices": [{"turns": ["a", None]}]}, "row 2: turn 2 must be text, not null"),
        ({"question_id": 1}, "row 2: question_id 1 is that of an earlier row"),
    ],
)
def test_answers_that_can_not_be_used(row: dict[str, Any], text: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [SAID, {**SAID, "question_id": 2, **row}])
    with pytest.raises(DataError) as caught:
        read_answers(tmp_path / "a.jsonl")
    assert text in str(caught.value)


def test_every_turn_of_a_question_is_rated_once() -> None:
    asked = [Question("x", "", ("1?",)), Question("y", "", ("1?", "2?")), Question("z", "", ("1?", "2?", "3?"))]
    answers: dict[str, Turns] = {q.id: ("1", "2", "3")[: len(q.turns)] for q in asked}
    expected = [("x-1", 1), ("y-1", 1), ("z-1", 1), ("y-2", 2), ("z-2", 2), ("z-3", 3)]
    assert [(row.id, len(row.prompt)) for row in to_rate(asked, answers)] == expected
    assert [(row.id, len(row.b)) for row in to_compare(asked, answers, answers)] == expected
