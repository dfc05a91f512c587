"""Samples of a policy and of what it is compared with, their log-probabilities, and what judges say of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from alignlab.data.fingerprint import digest
from alignlab.data.rows import Prompt
from alignlab.data.template import Template
from alignlab.data.tokenize import PromptAndAnswer
from alignlab.errors import DamagedError, OutputError
from alignlab.evaluation.examples import Examples
from alignlab.evaluation.questions import Question
from alignlab.evaluation.settings import Evaluation
from alignlab.integrity import DAMAGE_EXTRA, read_sealed, set_aside, write_sealed
from alignlab.models.generation import template_of
from alignlab.models.reference import ScoringOptions, token_logps
from alignlab.rollout.sampling import Sample, draw, uniforms

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSide:
    """A model with its tokenizer, and the digest of its weights."""

    model: Any
    tokenizer: Any
    weights: str

    @cached_property
    def template(self) -> Template:
        return template_of(self.model, self.tokenizer)


@dataclass(frozen=True)
class Suite:
    """The same questions for every side.

    longest_prompt: tokens; longer prompts are cut on the left, as in training; those of a file are not cut.
    how:            of the passes for log-probabilities.
    kept_in:        folder of drawn answers, by content: a reference is sampled once for all runs of a sweep.
    """

    settings: Evaluation
    questions: Sequence[Question]
    longest_prompt: int
    how: ScoringOptions
    kept_in: Path

    def draw(self, side: ModelSide) -> list[Sample]:
        """`samples` answers to each question, question by question, each followed by that to its second turn."""
        template, rows = side.template, self._rows
        found: dict[int, Sample] = {}
        for turn in (1, 2):
            mine = [i for i, row in enumerate(rows) if row[2] == turn]
            prompts = [self._prompt(template, rows[i], found.get(i - 1)) for i in mine]
            texts = [q.text if turn == 1 else f"{q.text}\n{q.second}" for q, _, _ in (rows[i] for i in mine)]
            asked = [(text, rows[i][1]) for text, i in zip(texts, mine, strict=True)]
            found |= dict(zip(mine, self._drawn(side, template, prompts, asked), strict=True)) if mine else {}
        return [found[i] for i in range(len(rows))]

    def _drawn(
        self, side: ModelSide, template: Template, prompts: list[list[int]], asked: Sequence[tuple[str, int]]
    ) -> list[Sample]:
        """One answer to each prompt; `asked` are what decides it besides: the text and the sample's number."""
        settings = self.settings
        decided = [settings.max_new_tokens, settings.temperature, settings.seed, settings.samples, template.ends]
        key = digest([side.weights.encode(), json.dumps([prompts, decided]).encode()])
        file = self.kept_in / f"{key}.json"
        kept = _kept_answers(file, key, len(prompts))
        if kept is None:
            seeds = [uniforms(settings.seed, text, number, settings.max_new_tokens) for text, number in asked]
            side.model.to(self.how.device)
            drawn = draw(side.model, prompts, seeds, settings, template.ends, self.how.progress)
            kept = [{"ids": answer.ids, "ended": answer.ended} for answer in drawn]
            _keep_answers(file, key, kept)
        return [Sample(**answer) for answer in kept]

    def texts(self, side: ModelSide, drawn: Sequence[Sample]) -> dict[str, list[Any]]:
        """Columns of a side's answers: text without the end token, tokens with it."""
        template = side.template
        return {
            "answer": [template.text(answer.ids) for answer in drawn],
            "tokens": [len(answer.ids) for answer in drawn],
            "ended": [answer.ended for answer in drawn],
        }

    def chosen(self, side: ModelSide) -> tuple[dict[str, list[Any]], list[Sample]]:
        """Columns of the data's preferred answers, and their tokens by this side's tokenizer."""
        template = side.template
        answers = [
            Sample(template.answer_ids(question.prompt, question.chosen, ended=question.ended), question.ended)
            for question in self.questions
            for _ in self._numbers
        ]
        columns: dict[str, list[Any]] = {
            "answer": [question.chosen for question in self.questions for _ in self._numbers],
            "tokens": [len(answer.ids) for answer in answers],
            "ended": [answer.ended for answer in answers],
        }
        return columns, answers

    def logps(self, side: ModelSide, drawn: Sequence[Sample]) -> list[list[float]]:
        """Log-probabilities of each answer's tokens under a model, nats; second turns after the answers' own first."""
        template, before = side.template, [None, *drawn]
        prompts = [self._prompt(template, row, first) for row, first in zip(self._rows, before, strict=False)]
        asked: list[PromptAndAnswer] = [(prompt, answer.ids) for prompt, answer in zip(prompts, drawn, strict=True)]
        return [tokens.tolist() for tokens in token_logps(side.model, asked, self.how)]

    def about(self) -> dict[str, list[Any]]:
        """Columns that name each row."""
        rows = self._rows
        found: dict[str, list[Any]] = {
            "prompt_id": [question.id for question, _, _ in rows],
            "prompt": [question.text if turn == 1 else question.second for question, _, turn in rows],
            "conversation": [
                None if isinstance(question.prompt, str) or turn == 2 else json.dumps(question.prompt)
                for question, _, turn in rows
            ],
            "sample": [number for _, number, _ in rows],
        }
        return found | ({"turn": [turn for _, _, turn in rows]} if any(turn == 2 for _, _, turn in rows) else {})

    @property
    def _rows(self) -> list[tuple[Question, int, int]]:
        """(question, number of the sample, turn); a second turn stands behind its first."""
        return [
            (question, number, turn)
            for question in self.questions
            for number in self._numbers
            for turn in ((1, 2) if question.second else (1,))
        ]

    def _prompt(self, template: Template, row: tuple[Question, int, int], before: Sample | None) -> list[int]:
        """Ids of what a row asks; `before` is the answer in the row before it, which a second turn comes after."""
        question, _, turn = row
        prompt: Prompt = question.prompt
        if turn == 2:
            assert before is not None
            prompt = question.after(template.text(before.ids))
        return template.prompt_ids(prompt)[-self.longest_prompt :]

    @property
    def _numbers(self) -> range:
        return range(self.settings.samples)


def _kept_answers(file: Path, key: str, count: int) -> list[dict[str, Any]] | None:
    """Answers that were sampled before; None if there are none, or if their file is damaged."""
    try:
        found = read_sealed(file)
        if found.get("key") != key or len(found["answers"]) != count:
            raise DamagedError(file, "holds other answers than its name says")
    except FileNotFoundError:
        return None
    except DamagedError as error:  # older versions kept a list, without a checksum
        log.warning("%s", set_aside(error, "the answers are drawn again"), extra=DAMAGE_EXTRA)
        return None
    return list(found["answers"])


def _keep_answers(file: Path, key: str, answers: list[dict[str, Any]]) -> None:
    """Store sampled answers, whole or not at all."""
    try:
        write_sealed(file, {"key": key, "answers": answers})
    except OSError as error:
        raise OutputError(f"{file} can't be written: {error}") from error


def sampled(
    suite: Suite,
    policy: ModelSide,
    reference: ModelSide,
    others: Mapping[str, Callable[[], ModelSide]],
    facts: Mapping[str, str],
) -> Examples:
    """Answers of all sides with their log-probabilities; nothing judged yet.

    others: baselines that are models of their own, loaded one after the other.
    """
    drawn = {"policy": suite.draw(policy)}
    columns = {**suite.about(), **_prefixed("policy", suite.texts(policy, drawn["policy"]))}
    for name in suite.settings.baselines:
        if name == "reference":
            drawn[name] = suite.draw(reference)
            columns |= _prefixed(name, suite.texts(reference, drawn[name]))
        elif name == "chosen":
            texts, drawn[name] = suite.chosen(policy)
            columns |= _prefixed(name, texts)
        else:
            side = others[name]()
            columns |= _prefixed(name, suite.texts(side, suite.draw(side)))
            del side  # before the next one is loaded
    if suite.settings.temperature == 1.0:
        for name, answers in drawn.items():
            columns[f"{name}/policy_logps"] = suite.logps(policy, answers)
            columns[f"{name}/reference_logps"] = suite.logps(reference, answers)
    return Examples(columns, dict(facts))


def _prefixed(side: str, columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    return {f"{side}/{name}": values for name, values in columns.items()}
