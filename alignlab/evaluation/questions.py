"""The prompts of an evaluation. They are read from a file, or taken from the rows of a run's data."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from alignlab.data.conversations import (
    UnusableRowError,
    gather,
    prompt_key,
    read_prompt,
    read_row,
    read_text,
    refuse_other_conversations,
    refuse_unsupported_columns,
)
from alignlab.data.fingerprint import digest
from alignlab.data.rows import Completion, Message, Prompt, messages_of
from alignlab.data.template import prompt_text
from alignlab.evaluation.benchmarks import xstest
from alignlab.evaluation.benchmarks.files import Row, parse_rows
from alignlab.spelling import counted

log = logging.getLogger(__name__)

PROMPTS = 64  # the number of an evaluation for which none is chosen


@dataclass(frozen=True)
class Question:
    """A prompt of the evaluation, and the data's preferred answer to it.

    chosen: the preferred answer; empty if there is none.
    ended:  whether the preferred answer is complete.
    second: prompt of the second turn, after the answer; empty if there is one turn.
    name:   name of the question in its file, if it has one.
    """

    prompt: Prompt
    chosen: str
    ended: bool
    second: str = ""
    name: str = ""

    @property
    def text(self) -> str:
        """The prompt as one text for judges and people. If there are several turns, the roles are written out."""
        return prompt_text(self.prompt)

    @property
    def id(self) -> str:
        return digest([json.dumps([self.prompt, self.second] if self.second else self.prompt).encode()])[:12]

    def after(self, answer: str) -> list[Message]:
        """The conversation that ends with the prompt of the second turn. `answer` is the answer to the first one."""
        return [
            *messages_of(self.prompt),
            Message(role="assistant", content=answer),
            Message(role="user", content=self.second),
        ]


def read_questions(path: str) -> list[Question]:
    """The prompts of a file with their preferred answers. The answers are empty if the file has none.

    Raises DataError with every row that can't be used.
    """
    if path.endswith(".csv"):
        return [Question(row.text, "", True, name=row.id) for row in xstest.read_prompts(path)]
    return parse_rows(path, _question)


def _question(row: Row) -> Question:
    refuse_unsupported_columns(row)
    column = _prompt_column(row)
    name = "" if row.get("question_id") is None else str(row["question_id"])
    if turns := row.get("turns"):
        if not (isinstance(turns, list) and 1 <= len(turns) <= 2 and all(isinstance(turn, str) for turn in turns)):
            raise UnusableRowError("turns must be one text or two")
        first, *second = gather(*(partial(read_text, turn, f"turn {i}") for i, turn in enumerate(turns, 1)))
        if blank := [f"turn {i} is empty" for i, turn in enumerate(turns, 1) if not turn.strip()]:
            raise UnusableRowError(*blank)
        refuse_other_conversations(row, first)
        return Question(first, "", True, "".join(second), name)
    answer = next((key for key in ("output", "chosen") if row.get(key) is not None), None)
    if answer is None:
        prompt = read_prompt(row[column], column)
        refuse_other_conversations(row, prompt)
        return Question(prompt, "", True, name=name)
    prompt, (text,) = read_row(row, {answer: row[answer]}, column)
    return Question(prompt, text, True, name=name)


def _prompt_column(row: Row) -> str:
    """The name of the column that holds the prompt.

    If several columns can hold one, their prompts must be equal. The prompt of `turns` is its first turn.
    Raises UnusableRowError if there is no prompt, or if prompts differ.
    """
    given = {name: row[name] for name in ("turns", "instruction", "prompt") if row.get(name)}
    if not given:
        raise UnusableRowError("needs instruction, turns or prompt, a text or a list of messages")
    firsts = {name: value[0] if name == "turns" and isinstance(value, list) else value for name, value in given.items()}
    if len(firsts) > 1:
        keys = {prompt_key(read_prompt(value, name)) for name, value in firsts.items()}
        if len(keys) > 1:
            raise UnusableRowError(f"{' and '.join(firsts)} hold different prompts: keep one of them")
    return next(iter(given))


def questions_of(rows: Iterable[Completion | Question], most: int) -> list[Question]:
    """The first `most` distinct prompts of the rows (0: all), in their order, each with its first answer.

    That there are fewer is logged, unless `most` is the default, which nobody asked for.
    """
    questions: dict[str, Question] = {}
    for row in rows:
        question = row if isinstance(row, Question) else Question(row.prompt, row.completion, row.ended)
        questions.setdefault(question.id, question)
    if len(questions) < most != PROMPTS:
        are = "is" if len(questions) == 1 else "are"
        there = counted(len(questions), "different prompt")
        log.info("evaluation.prompts=%d, but there %s only %s", most, are, there)
    return list(questions.values())[: most or None]
