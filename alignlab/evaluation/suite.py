"""Samples answers of a policy and its baselines, and computes their log-probabilities."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from alignlab.data.fingerprint import digest
from alignlab.data.rows import Prompt
from alignlab.data.template import Template
from alignlab.data.tokenize import PromptAndAnswer
from alignlab.errors import DamagedError, UnsavedError
from alignlab.evaluation.examples import Examples
from alignlab.evaluation.questions import Question
from alignlab.evaluation.settings import Evaluation
from alignlab.integrity import DAMAGE_EXTRA, read_sealed, set_aside, write_sealed
from alignlab.models.forward import on_device
from alignlab.models.generation import template_of
from alignlab.models.reference import ScoringOptions, token_logps
from alignlab.rollout.engines.base import Engine
from alignlab.rollout.engines.huggingface import HuggingFace
from alignlab.rollout.sampling import Draw, Sample, is_stored_sample

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSide:
    """A model with its tokenizer, and the digest of its weights.

    template_use: `data.template` of the run; auto for other models.
    """

    model: Any
    tokenizer: Any
    weights: str
    template_use: str = "auto"

    @cached_property
    def template(self) -> Template:
        return template_of(self.model, self.tokenizer, self.template_use)


@dataclass(frozen=True)
class Suite:
    """Samples and scores answers to the same questions for every side.

    longest_prompt: maximum number of tokens of a prompt. Longer prompts are cut on the left, as in training. Prompts of
                    a file are not cut.
    how:            settings of the forward passes for log-probabilities.
    kept_in:        folder of stored answers. They are found by content, so all runs of a sweep share the answers of
                    their reference.
    all_prompts:    the questions are all that there are (in the lab), not a sample of them.
    engine:         samples the answers.
    """

    settings: Evaluation
    questions: Sequence[Question]
    longest_prompt: int
    how: ScoringOptions
    kept_in: Path
    all_prompts: bool = False
    engine: Engine = field(default_factory=HuggingFace)

    def draw(self, side: ModelSide) -> list[Sample]:
        """Sample `samples` answers to each question. They are ordered by question, and by turn within a sample."""
        template, rows = side.template, self._rows
        answers: dict[int, Sample] = {}
        for turn in (1, 2):
            places = [i for i, row in enumerate(rows) if row[2] == turn]
            prompts = [self._prompt(template, rows[i], answers.get(i - 1)) for i in places]
            texts = [q.text if turn == 1 else f"{q.text}\n{q.second}" for q, _, _ in (rows[i] for i in places)]
            seeds = [(text, rows[i][1]) for text, i in zip(texts, places, strict=True)]
            answers |= dict(zip(places, self._sample(side, template, prompts, seeds), strict=True)) if places else {}
        return [answers[i] for i in range(len(rows))]

    def _sample(
        self, side: ModelSide, template: Template, prompts: list[list[int]], seeds: Sequence[tuple[str, int]]
    ) -> list[Sample]:
        """One answer to each prompt, sampled or read from the store.

        seeds: (text of the prompt, number of the sample), from which the random numbers are made.
        Raises EngineError if the engine does not have the weights of this side.
        """
        settings = self.settings
        decided = [settings.max_new_tokens, settings.temperature, settings.seed, settings.samples, template.ends]
        decided += [self.engine.identity] if self.engine.identity else []
        key = digest([side.weights.encode(), json.dumps([prompts, decided]).encode()])
        file = self.kept_in / f"{key}.json"
        kept = _kept_answers(file, key, len(prompts))
        if kept is None:
            draws = [Draw(settings.seed, text, number) for text, number in seeds]
            on_device(side.model, self.how.device)
            sampler = self.engine.sampler()
            sampler.update(side.model)
            answers = sampler.sample(prompts, draws, settings, template.ends, self.how.progress)
            self.engine.check(side.model, prompts, answers, settings)
            kept = [{"ids": answer.ids, "ended": answer.ended} for answer in answers]
            _keep_answers(file, {"key": key, "weights": side.weights, "answers": kept})
        return [Sample(**answer) for answer in kept]

    def texts(self, side: ModelSide, answers: Sequence[Sample]) -> dict[str, list[Any]]:
        """Columns of a side's answers. Texts are without the end token, numbers of tokens include it."""
        template, rows = side.template, self._rows
        return {
            "answer": [
                template.text(answer.ids, question.prompt)
                for answer, (question, _, _) in zip(answers, rows, strict=True)
            ],
            "tokens": [len(answer.ids) for answer in answers],
            "ended": [answer.ended for answer in answers],
        }

    def chosen(self, side: ModelSide) -> tuple[dict[str, list[Any]], list[PromptAndAnswer]]:
        """(columns of the data's preferred answers, their tokens by the tokenizer of `side`)."""
        questions = [question for question in self.questions for _ in self._numbers]
        encoded = [side.template.encode(one.prompt, [(one.chosen, one.ended)]) for one in questions]
        columns: dict[str, list[Any]] = {
            "answer": [question.chosen for question in questions],
            "tokens": [len(row.answers[0]) for row in encoded],
            "ended": [question.ended for question in questions],
        }
        return columns, [(row.prompt[-self.longest_prompt :], row.answers[0]) for row in encoded]

    def tokens(self, side: ModelSide, answers: Sequence[Sample]) -> list[PromptAndAnswer]:
        """Sampled answers with their prompts, as ids. The prompt of a second turn includes the first answer."""
        template, before = side.template, [None, *answers]
        prompts = [self._prompt(template, row, first) for row, first in zip(self._rows, before, strict=False)]
        return [(prompt, answer.ids) for prompt, answer in zip(prompts, answers, strict=True)]

    def logps(self, side: ModelSide, answers: Sequence[PromptAndAnswer]) -> list[list[float]]:
        """Log-probabilities (nats) of each answer's tokens under a model."""
        return [tokens.tolist() for tokens in token_logps(side.model, answers, self.how)]

    def about(self) -> dict[str, list[Any]]:
        """Columns that identify each row."""
        rows = self._rows
        columns: dict[str, list[Any]] = {
            "prompt_id": [question.id for question, _, _ in rows],
            "prompt": [question.text if turn == 1 else question.second for question, _, turn in rows],
            "conversation": [
                None if isinstance(question.prompt, str) or turn == 2 else json.dumps(question.prompt)
                for question, _, turn in rows
            ],
            "sample": [number for _, number, _ in rows],
        }
        return columns | ({"turn": [turn for _, _, turn in rows]} if any(turn == 2 for _, _, turn in rows) else {})

    @property
    def _rows(self) -> list[tuple[Question, int, int]]:
        """(question, number of the sample, turn) of each row. A second turn follows its first."""
        return [
            (question, number, turn)
            for question in self.questions
            for number in self._numbers
            for turn in ((1, 2) if question.second else (1,))
        ]

    def _prompt(self, template: Template, row: tuple[Question, int, int], before: Sample | None) -> list[int]:
        """Token ids of a row's prompt. `before` is the answer of the previous row, which a second turn follows."""
        question, _, turn = row
        prompt: Prompt = question.prompt
        if turn == 2:
            assert before is not None
            prompt = question.after(template.text(before.ids, prompt))
        return template.prompt_ids(prompt)[-self.longest_prompt :]

    @property
    def _numbers(self) -> range:
        return range(self.settings.samples)


def _kept_answers(file: Path, key: str, count: int) -> list[dict[str, Any]] | None:
    """Answers that were sampled before; None if there are none, or if their file is damaged."""
    try:
        kept = read_sealed(file)
        answers = kept.get("answers")
        fits = isinstance(answers, list) and len(answers) == count and all(map(is_stored_sample, answers))
        if kept.get("key") != key or not fits:
            raise DamagedError(file, "holds answers that do not belong to its name")
    except FileNotFoundError:
        return None
    except DamagedError as error:  # older versions wrote a list without a checksum
        log.warning("%s", set_aside(error, "the answers are sampled again"), extra=DAMAGE_EXTRA)
        return None
    return list(kept["answers"])


def _keep_answers(file: Path, content: Mapping[str, Any]) -> None:
    """Store sampled answers, whole or not at all. Raises UnsavedError if the file can't be written."""
    try:
        write_sealed(file, content)
    except OSError as error:
        raise UnsavedError(f"{file} can't be written: {error}") from error


def sampled(
    suite: Suite,
    policy: ModelSide,
    reference: ModelSide | None,
    others: Mapping[str, Callable[[], ModelSide]],
    facts: Mapping[str, str],
) -> Examples:
    """Examples with the answers of all sides and their log-probabilities. No judge is asked.

    reference: None if there is none; then there are no log-probabilities.
    others: name -> loader of baselines that are separate models. They are loaded one after the other.
    """
    answers = suite.draw(policy)
    scored = {"policy": suite.tokens(policy, answers)}  # answers that get log-probabilities
    columns = {**suite.about(), **_prefixed("policy", suite.texts(policy, answers))}
    for name in suite.settings.baselines:
        if name == "reference":
            assert reference is not None
            answers = suite.draw(reference)
            scored[name] = suite.tokens(reference, answers)
            columns |= _prefixed(name, suite.texts(reference, answers))
        elif name == "chosen":
            texts, scored[name] = suite.chosen(policy)
            columns |= _prefixed(name, texts)
        else:
            side = others[name]()
            columns |= _prefixed(name, suite.texts(side, suite.draw(side)))
            del side  # free its memory before the next one is loaded
    if suite.settings.temperature == 1.0 and reference is not None:
        for name, tokens in scored.items():
            columns[f"{name}/policy_logps"] = suite.logps(policy, tokens)
            columns[f"{name}/reference_logps"] = suite.logps(reference, tokens)
    return Examples(columns, {**facts, **({"prompts": "all"} if suite.all_prompts else {})})


def _prefixed(side: str, columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    return {f"{side}/{name}": values for name, values in columns.items()}
