"""Users' files of questions and graded pairs: whole conversations are used, or their rows are rejected."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from alignlab.errors import DataError
from alignlab.evaluation.benchmarks import mt_bench
from alignlab.evaluation.benchmarks.alpaca_eval import read_prompts
from alignlab.evaluation.graded_pairs import read_graded
from alignlab.evaluation.questions import Question, questions_of, read_questions
from alignlab.evaluation.settings import Evaluation
from alignlab.judges.templates import read_templates

ASK, TELL = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}
MORE, ANSWER = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}


def written(folder: Path, *rows: Any, before: str = "") -> str:
    (folder / "q.jsonl").write_text(before + "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder / "q.jsonl")


def test_questions_of_every_shape(tmp_path: Path) -> None:
    rows = [
        {"instruction": "2024-01-01", "output": "007", "input": ""},
        {"prompt": [ASK, TELL, MORE], "chosen": "Because."},
        {"prompt": "Hi", "chosen": [ASK, TELL, MORE, ANSWER]},
        {"prompt": "Hi", "chosen": [ANSWER]},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
        {"turns": ["One?", "Two?"], "question_id": 7},
        {"turns": ["One?", "Two?"], "prompt": " One?", "instruction": None},
        {"prompt": "Hi", "instruction": "", "messages": [ASK]},
        {"prompt": "Hi", "instruction": "Hi ", "messages": [ASK, ANSWER], "chosen": "Because."},
    ]
    found = read_questions(written(tmp_path, *rows, before="\ufeff"))
    assert [(q.prompt, q.chosen, q.second) for q in found] == [
        ("2024-01-01", "007", ""),
        ([ASK, TELL, MORE], "Because.", ""),
        ([ASK, TELL, MORE], "Because.", ""),
        ("Hi", "Because.", ""),
        ([ASK], "", ""),
        ("One?", "", "Two?"),
        ("One?", "", "Two?"),
        ("Hi", "", ""),
        ("Hi ", "Because.", ""),
    ]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"prompt": [{"role": "user", "content": None}]}, "turn 1 of prompt has no text"),
        ({"prompt": "Ho", "chosen": [ASK, ANSWER]}, "chosen is a different conversation from prompt"),
        ({"prompt": "Hi", "output": 7}, "output must be text or a list"),
        (
            {"instruction": "Translate", "input": "Hola"},
            "input: such a column is not supported; make it a part of the prompt, or remove it",
        ),
        ({"prompt": "Hi", "system": "Be short."}, "system: such a column is not supported"),
        ({"turns": ["a", 5]}, "turns must be one text or two"),
        ({"turns": ["a", ""]}, "turn 2 is empty"),
        ({"turns": [" ", "b"]}, "turn 1 is empty"),
        ({"turns": [""]}, "turn 1 is empty"),
        ({"turns": ["Hi"], "prompt": "Ho"}, "turns and prompt hold different prompts"),
        ({"turns": ["Hi"], "messages": [ASK, TELL, MORE]}, "prompt and messages differ before the answer"),
        ({"instruction": "Hi", "prompt": "Ho"}, "instruction and prompt hold different prompts"),
        ({"instruction": "Hi", "prompt": [ASK, TELL, MORE]}, "instruction and prompt hold different prompts"),
        ({"prompt": "Hi", "messages": [ASK, TELL, MORE]}, "prompt has 1 turn, and messages has 3"),
        ({"prompt": "Hi", "output": "x", "conversations": [ASK, TELL]}, "conversations ends with an answer that"),
        ({"prompt": "Hi", "messages": [ASK, TELL]}, "messages ends with an answer that the row does not have"),
        ({"prompt": []}, "needs instruction, turns or prompt"),
    ],
)
def test_questions_that_can_not_be_asked(row: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_questions(written(tmp_path, row, {"prompt": "Hi"}, row))
    assert "q.jsonl: 2 rows can't be used\n  row 1: " in str(caught.value)
    assert text in str(caught.value)


def test_too_few_prompts_are_told_if_a_number_was_chosen(caplog: pytest.LogCaptureFixture) -> None:
    rows = [Question(f"Q{i}", "", True) for i in (1, 2, 2)]
    with caplog.at_level("INFO"):
        assert len(questions_of(rows, Evaluation().prompts)) == 2
        assert len(questions_of(rows[1:], 32)) == len(questions_of(rows, 16)) - 1 == 1
    assert [record.getMessage() for record in caplog.records] == [
        "evaluation.prompts=32, but there is only 1 different prompt",
        "evaluation.prompts=16, but there are only 2 different prompts",
    ]


def test_graded_pairs_hold_conversations(tmp_path: Path) -> None:
    (pair,) = read_graded(written(tmp_path, {"prompt": "Hi", "chosen": [ASK, ANSWER], "rejected": [ASK, TELL]}))
    assert (pair.prompt, pair.chosen, pair.rejected) == ([ASK], "Because.", "Yes?")
    with pytest.raises(DataError, match="row 1: chosen is a different conversation"):
        read_graded(written(tmp_path, {"prompt": "Ho", "chosen": [ASK, ANSWER], "rejected": "x"}))
    with pytest.raises(DataError, match="row 1: messages ends with an answer that the row does not have"):
        read_graded(written(tmp_path, {"prompt": "Hi", "chosen": "a", "rejected": "b", "messages": [ASK, TELL]}))
    for nothing in (read_graded, read_questions):
        with pytest.raises(DataError, match="is empty: it has no rows"):
            nothing(written(tmp_path))


def test_benchmarks_ask_texts_only(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 1: instruction must be text, not 5"):
        read_prompts(written(tmp_path, {"instruction": 5}))
    one = {"question_id": 1, "category": "x"}
    with pytest.raises(DataError, match="row 1: turns must be a list of texts, not 'Why'"):
        mt_bench.read_questions(written(tmp_path, {**one, "turns": "Why"}))
    assert mt_bench.read_questions(written(tmp_path, {**one, "turns": ["Why"]}))[0].turns == ("Why",)


def test_templates_are_those_that_the_file_holds_now(tmp_path: Path) -> None:
    made = {"name": "old", "type": "single", "prompt_template": "{question} {answer}", "output_format": "[[rating]]"}
    path = written(tmp_path, made, before="\ufeff")
    os.utime(path, (10**9, 10**9))
    assert read_templates(path)[0].name == "old"
    written(tmp_path, {**made, "name": "new"})
    os.utime(path, (10**9, 10**9))
    assert read_templates(path)[0].name == "new"
