"""Samples of a policy and of what it is compared with, their log-probabilities, and what judges say of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from alignlab.checks import at_least, model_problems
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
from alignlab.data.rows import Completion, Message, Prompt
from alignlab.data.template import Template, plain_transcript
from alignlab.data.tokenize import PromptAndAnswer
from alignlab.errors import DamagedError, DataError, OutputError, Problem
from alignlab.evaluation.benchmarks import xstest
from alignlab.evaluation.benchmarks.files import Row, parse_rows
from alignlab.evaluation.examples import Examples
from alignlab.evaluation.graded_pairs import read_pairs
from alignlab.evaluation.judges.base import Answer, Bill, Comparison, Judge, Judged, ScoreJudge, Turns, Verdict
from alignlab.integrity import DAMAGE_EXTRA, read_sealed, set_aside, write_sealed
from alignlab.models.generation import template_of
from alignlab.models.lineage import comes_with_code, is_local_model
from alignlab.models.reference import Pass, token_logps
from alignlab.rollout.sampling import Drawn, Sampling, draw, uniforms

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Evaluation(Sampling):
    """What is drawn, and what it is compared with.

    seed:      with a prompt's text and a sample's number it decides the sample.

    prompts:   how many different held-out prompts, in their order; 0 takes all.
    questions: a .json or .jsonl file of prompts (or XSTest's .csv, and refusals are counted) instead of the run's own
               held-out ones: rows with `instruction` (AlpacaEval's form; answers are written as its model_outputs.json
               too), `turns` (MT-Bench's: two, the second is asked after the side's own answer to the first; answers are
               written in FastChat's form too) or `prompt`, a text or messages; `output` or `chosen`, where there, is
               the preferred answer.
    pairs:     a .json or .jsonl file of prompt, chosen, rejected and perhaps subset (RewardBench's form): how often the
               rewards that the policy implies, or a reward run's, tell them apart. Reward runs are evaluated on their
               own held-out pairs without it.
    samples:   answers to each prompt; several give best-of-n curves and smaller errors within a prompt.
    baselines: reference (what training started from), chosen (the data's preferred answers), the id of another run, or
               a model (a folder or hub name).
    proxy:     judge whose score was trained on, directly or by preferences that came from it; the watch for
               over-optimisation takes all others for held out.
    shown:     prompts on the page that shows answers side by side.
    max_kl:    largest KL to the reference, nats per answer, that the verdict accepts from a run without a proven gain:
               above it the verdict is `drifted`, unless a held-out score, win-rate or accuracy is above that of the
               start by more than its 95 % interval. 0 switches this off.
    """

    seed: int = 1
    prompts: int = 64
    questions: str = ""
    pairs: str = ""
    samples: int = 1
    baselines: list[str] = field(default_factory=lambda: ["reference"])
    proxy: str = ""
    shown: int = 20
    max_kl: float = 10.0

    def missing(self) -> Iterator[Problem]:
        """Problems of files that can't be read or lack something, and of baselines whose weights are not complete."""
        for name in self.baselines:
            if is_local_model(name) and not comes_with_code(
                name
            ):  # models with code are checked where it is known if that may run
                from alignlab.models.sources.base import check_pretrained  # seconds to import

                yield from model_problems("baselines", name, check_pretrained)
        if self.pairs:
            try:
                read_pairs(self.pairs)
            except DataError as error:
                yield Problem("pairs", self.pairs, str(error))
        if not self.questions:
            return
        try:
            rows = read_questions(self.questions)
        except DataError as error:
            yield Problem("questions", self.questions, str(error))
        else:
            if "chosen" in self.baselines and not all(row.chosen and not row.second for row in rows):
                text = "not every row has an answer (output or chosen) to compare with"
                yield Problem("questions", self.questions, text, "evaluation.baselines=[reference]")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from at_least("seed", self.seed, 0, example=1)
        yield from at_least("prompts", self.prompts, 0, example=64, hint="0 takes all")
        yield from at_least("samples", self.samples, 1, example=4)
        yield from at_least("shown", self.shown, 0, example=20)
        yield from at_least("max_kl", self.max_kl, 0.0, example=10.0, hint="nats per answer; 0 switches the check off")
        for name in {n for n in self.baselines if self.baselines.count(n) > 1 or n == "policy"}:
            yield Problem("baselines", self.baselines, f"must be different sides, not policy: {name}")


def read_questions(path: str) -> list[Question]:
    """Prompts of a file with their preferred answers, which are empty if the file has none.

    Raises DataError with every row that can't be used.
    """
    if path.endswith(".csv"):
        return [Question(row.text, "", True, name=row.id) for row in xstest.read_prompts(path)]
    return parse_rows(path, _question)


def _question(row: Row) -> Question:
    refuse_unsupported_columns(row)
    asked = _asked(row)
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
        prompt = read_prompt(row[asked], asked)
        refuse_other_conversations(row, prompt)
        return Question(prompt, "", True, name=name)
    prompt, (text,) = read_row(row, {answer: row[answer]}, asked)
    return Question(prompt, text, True, name=name)


def _asked(row: Row) -> str:
    """The column that holds what is asked; other such columns must hold the same. Of `turns` the first one counts.

    Raises UnusableRowError.
    """
    asked = {name: row[name] for name in ("turns", "instruction", "prompt") if row.get(name)}
    if not asked:
        raise UnusableRowError("needs instruction, turns or prompt, a text or a list of messages")
    firsts = {name: value[0] if name == "turns" and isinstance(value, list) else value for name, value in asked.items()}
    if len(firsts) > 1:
        keys = {prompt_key(read_prompt(value, name)) for name, value in firsts.items()}
        if len(keys) > 1:
            raise UnusableRowError(f"{' and '.join(firsts)} ask different things: keep the one that is to be asked")
    return next(iter(asked))


@dataclass(frozen=True)
class Question:
    """A prompt of the evaluation, and the data's preferred answer to it.

    second: what is asked after the answer; empty where nothing is.
    name:   what the question is called in its file, if it is.
    """

    prompt: Prompt
    chosen: str
    ended: bool
    second: str = ""
    name: str = ""

    @property
    def text(self) -> str:
        """As a judge or a person reads it: one text, roles written out where there are several turns."""
        if isinstance(self.prompt, str):
            return self.prompt
        return self.prompt[0]["content"] if len(self.prompt) == 1 else plain_transcript(self.prompt).strip()

    @property
    def id(self) -> str:
        return digest([json.dumps([self.prompt, self.second] if self.second else self.prompt).encode()])[:12]

    def after(self, answer: str) -> list[Message]:
        """The conversation in which the second turn is asked."""
        asked = [Message(role="user", content=self.prompt)] if isinstance(self.prompt, str) else self.prompt
        return [*asked, Message(role="assistant", content=answer), Message(role="user", content=self.second)]


def questions_of(rows: Iterable[Completion | Question], most: int) -> list[Question]:
    """The different prompts of rows, in their order, the first `most` of them (0: all), each with its first answer."""
    found: dict[str, Question] = {}
    for row in rows:
        question = row if isinstance(row, Question) else Question(row.prompt, row.completion, row.ended)
        found.setdefault(question.id, question)
    return list(found.values())[: most or None]


@dataclass(frozen=True)
class Side:
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
    how: Pass
    kept_in: Path

    def draw(self, side: Side) -> list[Drawn]:
        """`samples` answers to each question, question by question, each followed by that to its second turn."""
        template, rows = side.template, self._rows
        found: dict[int, Drawn] = {}
        for turn in (1, 2):
            mine = [i for i, row in enumerate(rows) if row[2] == turn]
            prompts = [self._prompt(template, rows[i], found.get(i - 1)) for i in mine]
            texts = [q.text if turn == 1 else f"{q.text}\n{q.second}" for q, _, _ in (rows[i] for i in mine)]
            asked = [(text, rows[i][1]) for text, i in zip(texts, mine, strict=True)]
            found |= dict(zip(mine, self._drawn(side, template, prompts, asked), strict=True)) if mine else {}
        return [found[i] for i in range(len(rows))]

    def _drawn(
        self, side: Side, template: Template, prompts: list[list[int]], asked: Sequence[tuple[str, int]]
    ) -> list[Drawn]:
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
        return [Drawn(**answer) for answer in kept]

    def texts(self, side: Side, drawn: Sequence[Drawn]) -> dict[str, list[Any]]:
        """Columns of a side's answers: text without the end token, tokens with it."""
        template = side.template
        return {
            "answer": [template.text(answer.ids) for answer in drawn],
            "tokens": [len(answer.ids) for answer in drawn],
            "ended": [answer.ended for answer in drawn],
        }

    def chosen(self, side: Side) -> tuple[dict[str, list[Any]], list[Drawn]]:
        """Columns of the data's preferred answers, and their tokens by this side's tokenizer."""
        template = side.template
        answers = [
            Drawn(template.answer_ids(question.prompt, question.chosen, ended=question.ended), question.ended)
            for question in self.questions
            for _ in self._numbers
        ]
        columns: dict[str, list[Any]] = {
            "answer": [question.chosen for question in self.questions for _ in self._numbers],
            "tokens": [len(answer.ids) for answer in answers],
            "ended": [answer.ended for answer in answers],
        }
        return columns, answers

    def logps(self, side: Side, drawn: Sequence[Drawn]) -> list[list[float]]:
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

    def _prompt(self, template: Template, row: tuple[Question, int, int], before: Drawn | None) -> list[int]:
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
    suite: Suite, policy: Side, reference: Side, others: Mapping[str, Callable[[], Side]], facts: Mapping[str, str]
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


def judged(examples: Examples, name: str, judge: Judge, store: Path) -> tuple[Examples, Bill]:
    """The examples with what one judge says of them: comparisons with every baseline, and scores if it scores."""
    columns, bill = examples.without(name), Bill()
    ids = [_id(examples, row) for row in range(len(examples))]
    facts = {**examples.facts, f"judge/{name}": judge.fingerprint()}
    if isinstance(judge, ScoreJudge):
        scores = judge.score([answer for side in examples.sides for answer in _answers(examples, side)])
        for i, side in enumerate(examples.sides):
            columns[f"{side}/score/{name}"] = list(scores[i * len(ids) : (i + 1) * len(ids)])
    for baseline in examples.baselines:
        if isinstance(judge, ScoreJudge):
            mine, theirs = (columns[f"{side}/score/{name}"] for side in ("policy", baseline))
            found = judge.compare_scores(ids, mine, theirs)
        else:
            found = judge.compare(_comparisons(examples, baseline), store)
        bill += found.bill
        facts[f"disagreement/{name}"] = found.disagreement
        columns |= _verdicts(ids, baseline, name, found)
    return Examples(columns, facts), bill


def _verdicts(ids: Sequence[str], baseline: str, name: str, found: Judged) -> dict[str, list[Any]]:
    by_place = {(j.id, j.swapped): j for j in found.judgements}
    if not any((id_, False) in by_place and (id_, True) in by_place for id_ in ids):
        by_place = {(id_, False): judgement for (id_, _), judgement in by_place.items()}  # each shown in one order
    columns: dict[str, list[Any]] = {}
    for column, swapped in (("first", False), ("second", True)):
        asked = [by_place.get((id_, swapped)) for id_ in ids]
        if any(asked) or column == "first":
            columns[f"{baseline}/{column}/{name}"] = [
                None if j is None or j.verdict is Verdict.UNJUDGED else j.score for j in asked
            ]
    both = [[by_place[key].said for key in ((id_, False), (id_, True)) if key in by_place] for id_ in ids]
    return columns | {f"{baseline}/said/{name}": ["\n---\n".join(said) for said in both]}


def _answers(examples: Examples, side: str) -> list[Answer]:
    return [
        Answer(
            _id(examples, row),
            _turns(examples, "prompt", row),
            _turns(examples, f"{side}/answer", row),
            conversation=_conversation(examples, row, side),
            ended=examples[f"{side}/ended"][row],
        )
        for row in range(len(examples))
    ]


def _comparisons(examples: Examples, baseline: str) -> list[Comparison]:
    return [
        Comparison(
            _id(examples, row),
            _turns(examples, "prompt", row),
            _turns(examples, "policy/answer", row),
            _turns(examples, f"{baseline}/answer", row),
            conversation=None if _is_second(examples, row) else _conversation(examples, row, "policy"),
        )
        for row in range(len(examples))
    ]


def _is_second(examples: Examples, row: int) -> bool:
    """Whether a row asks the second turn of the row before it."""
    return "turn" in examples and examples["turn"][row] == 2


def _turns(examples: Examples, column: str, row: int) -> Turns:
    """One turn, or both where the row asks the second."""
    first = (examples[column][row - 1],) if _is_second(examples, row) else ()
    return (*first, examples[column][row])


def _id(examples: Examples, row: int) -> str:
    second = "-2" if _is_second(examples, row) else ""
    return f"{examples['prompt_id'][row]}-{examples['sample'][row]}{second}"


def _conversation(examples: Examples, row: int, side: str) -> Prompt | None:
    """The prompt's messages, where it has any; a second turn's with what this side said before."""
    if _is_second(examples, row):
        before = _conversation(examples, row - 1, side)
        asked = before if isinstance(before, list) else [Message(role="user", content=examples["prompt"][row - 1])]
        answer = Message(role="assistant", content=examples[f"{side}/answer"][row - 1])
        return [*asked, answer, Message(role="user", content=examples["prompt"][row])]
    kept = examples["conversation"][row]
    return None if kept is None else json.loads(kept)


def _prefixed(side: str, columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    return {f"{side}/{name}": values for name, values in columns.items()}
