"""MT-Bench's file formats: 80 questions of two turns, and answers and judgements as FastChat stores them.

Zheng et al. 2023, https://arxiv.org/abs/2306.05685. Judge templates come from a file; use `judge_prompts.jsonl` for
numbers that are comparable with published ones (see alignlab/judges/templates.py).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from alignlab.data.conversations import UnusableRowError, gather, read_text
from alignlab.errors import DataError
from alignlab.evaluation.benchmarks.files import Row, parse_rows, write_rows
from alignlab.judges.base import Answer, Comparison, Turns
from alignlab.spelling import counted
from alignlab.statistics.intervals import Estimate, mean_interval

# Categories in which the judge sees a reference answer.
WITH_REFERENCE = ("math", "reasoning", "coding")

# Maximum number of turns of a question. FastChat has templates for one and for two.
MAX_TURNS = 2


@dataclass(frozen=True)
class Question:
    """One question.

    turns:     the user's turns.
    reference: correct answers, one per turn; empty if the judge sees none.
    """

    id: str
    category: str
    turns: Turns
    reference: Turns = ()


def read_questions(questions: str | Path, references: str | Path | None = None) -> list[Question]:
    """Read `question.jsonl`. `references` is `reference_answer/gpt-4.jsonl`, for maths, reasoning and coding.

    Raises DataError with every row that can't be used.
    """
    known = read_answers(references) if references else {}

    seen: set[tuple[str, str]] = set()

    def question(row: Row) -> Question:
        name, turns = gather(partial(_new_id, row, seen), partial(_user_turns, row["turns"]))
        category = row["category"]
        reference = known.get(name, ()) if category in WITH_REFERENCE else ()
        return Question(name, category, turns, reference)

    return parse_rows(questions, question, "question_id", "category", "turns")


def read_answers(path: str | Path) -> dict[str, Turns]:
    """Question id -> turns of one model's answer (`model_answer/<model>.jsonl`). The first of several answers counts.

    Raises DataError with every row that can't be used, and if the rows belong to several models.
    """
    seen: set[tuple[str, str]] = set()

    def answer(row: Row) -> tuple[str, Turns, Any]:
        name, turns = gather(partial(_new_id, row, seen), partial(_model_turns, row["choices"]))
        return name, turns, row.get("model_id")

    rows = parse_rows(path, answer, "question_id", "choices")
    models = {str(model) for _, _, model in rows}
    if len(models) > 1:
        raise DataError(f"{path} holds answers of several models: {', '.join(sorted(models))}")
    return {name: turns for name, turns, _ in rows}


def _new_id(row: Row, seen: set[tuple[str, str]]) -> str:
    """The row's question_id. Raises UnusableRowError if it is invalid, or if an earlier row of the same model has it.

    seen: (model, id) of the earlier rows. The row's own is added.
    """
    value = row["question_id"]
    name = str(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or not name.strip():
        raise UnusableRowError(f"question_id must be a number or a text, not {value!r:.80}")
    key = (str(row.get("model_id")), name)
    if key in seen:
        raise UnusableRowError(f"question_id {name} is that of an earlier row")
    seen.add(key)
    return name


def _user_turns(turns: Any) -> Turns:
    texts = _texts(turns)
    if len(texts) > MAX_TURNS:
        raise UnusableRowError(f"turns must be one text or two, not {len(texts)}")
    if blank := [f"turn {i} is empty" for i, text in enumerate(texts, 1) if not text.strip()]:
        raise UnusableRowError(*blank)
    return texts


def _model_turns(choices: Any) -> Turns:
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict) or "turns" not in choices[0]:
        raise UnusableRowError(f"choices must be a list that begins with {{turns: [...]}}, not {choices!r:.80}")
    return _texts(choices[0]["turns"])


def _texts(turns: Any) -> Turns:
    if not isinstance(turns, list) or not turns:
        raise UnusableRowError(f"turns must be a list of texts, not {turns!r:.80}")
    return tuple(gather(*(partial(read_text, turn, f"turn {i}") for i, turn in enumerate(turns, 1))))


def write_answers(path: str | Path, answers: Mapping[str, Turns], model: str) -> None:
    """Write `model_answer/<model>.jsonl` for FastChat's own judge."""
    rows = [
        {
            "question_id": int(id_) if id_.isdigit() else id_,
            "answer_id": f"{model}-{id_}",
            "model_id": model,
            "choices": [{"index": 0, "turns": list(turns)}],
            "tstamp": time.time(),
        }
        for id_, turns in answers.items()
    ]
    write_rows(path, rows)


def to_rate(questions: Sequence[Question], answers: Mapping[str, Turns]) -> list[Answer]:
    """Rows for single grading, one per turn. The row of a second turn includes the first one.

    Ids are `<question>-<turn>`. Raises DataError if an answer is missing.
    """
    return [
        Answer(f"{q.id}-{turn}", q.turns[:turn], _answer(answers, q)[:turn], q.reference[:turn])
        for turn, q in _turns(questions)
    ]


def to_compare(questions: Sequence[Question], a: Mapping[str, Turns], b: Mapping[str, Turns]) -> list[Comparison]:
    """Rows for pairwise comparison, as in `to_rate`. All rows of a question count as one prompt (`prompt_of`)."""
    return [
        Comparison(f"{q.id}-{turn}", q.turns[:turn], _answer(a, q)[:turn], _answer(b, q)[:turn], q.reference[:turn])
        for turn, q in _turns(questions)
    ]


def _turns(questions: Sequence[Question]) -> list[tuple[int, Question]]:
    """(number of the turn, question): the first turns of all questions, then all second turns."""
    most = max((len(q.turns) for q in questions), default=0)
    return [(turn, q) for turn in range(1, most + 1) for q in questions if turn <= len(q.turns)]


def prompt_of(row: str) -> str:
    """The question's id in the id of a row."""
    return row.rpartition("-")[0]


@dataclass(frozen=True)
class Scores:
    """Mean ratings with intervals over questions.

    score:   mean over both turns of all questions.
    invalid: number of ratings that could not be parsed. No mean includes them.
    """

    score: Estimate
    by_turn: dict[int, Estimate]
    by_category: dict[str, Estimate]
    invalid: int


def summarise(questions: Sequence[Question], ratings: Mapping[str, float], *, level: float = 0.95) -> Scores:
    """Scores from ratings by row id (`to_rate`). NaN is an invalid rating. Rows that are missing were not judged.

    Raises DataError if a rating belongs to no question of the set.
    """
    category = {q.id: q.category for q in questions}
    unknown = {prompt_of(row) for row in ratings} - category.keys()
    if unknown:
        raise DataError(f"ratings of questions that are not in the set: {', '.join(sorted(unknown))}")
    valid = {row: value for row, value in ratings.items() if not np.isnan(value)}

    def mean(rows: list[str]) -> Estimate:
        return mean_interval([valid[row] for row in rows], [prompt_of(row) for row in rows], level=level)

    return Scores(
        score=mean(list(valid)),
        by_turn={turn: mean([row for row in valid if row.endswith(f"-{turn}")]) for turn in (1, 2)},
        by_category={
            name: mean([row for row in valid if category[prompt_of(row)] == name])
            for name in dict.fromkeys(category.values())
        },
        invalid=len(ratings) - len(valid),
    )


def _answer(answers: Mapping[str, Turns], question: Question) -> Turns:
    found = answers.get(question.id, ())
    if len(found) < len(question.turns):
        raise DataError(
            f"question {question.id} has {counted(len(question.turns), 'turn')}, "
            f"but {counted(len(found), 'answer')} to them"
        )
    return found
