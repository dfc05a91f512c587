"""Answers of a policy to the prompts of a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignlab.evaluation.questions import Question, read_questions
from alignlab.judges.cache import Store
from alignlab.pipeline.policies import Policy
from alignlab.progress import Progress
from alignlab.rollout.engines.huggingface import HuggingFace
from alignlab.synthesis.samples import sample_answers
from alignlab.synthesis.settings import Synthesis
from alignlab.training.setup import device_of


@dataclass(frozen=True)
class Generated:
    """Answers to prompts.

    rows:    one for each answer: prompt, completion, ended, sample.
    ended:   how many answers ended by themselves.
    skipped: number of second turns of prompts, which are not asked.
    """

    rows: list[dict[str, Any]]
    ended: int
    skipped: int


def generate(
    policy: Policy, file: str, how: Synthesis, *, root: str, accelerator: str, progress: Progress
) -> Generated:
    """Sample answers to every prompt of a file, which is read as by `alignlab evaluate`.

    Answers are stored below `<root>/samples` as they come, so that a stopped command goes on where it was.
    Raises DataError with every row of the file that can't be used.
    """
    questions = read_questions(file)
    side = policy.load()
    side.model.to(device_of(accelerator))
    side.model.eval()
    kept = Store(Path(root) / "samples" / "prompts", "the answers are sampled again")
    prompts = [question.prompt for question in questions]
    found = sample_answers(side, prompts, how, HuggingFace(), sys.maxsize, kept, progress)
    rows = [row for question, answers in zip(questions, found.answers, strict=True) for row in _rows(question, answers)]
    return Generated(rows, sum(row["ended"] for row in rows), sum(bool(question.second) for question in questions))


def _rows(question: Question, answers: Any) -> Iterator[dict[str, Any]]:
    for number, answer in enumerate(answers):
        name = {"question_id": question.name} if question.name else {}
        yield {**name, "prompt": question.prompt, "completion": answer.text, "ended": answer.ended, "sample": number}
