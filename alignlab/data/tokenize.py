"""Rows to token ids, cut to length; every cut is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import ne
from typing import Any

import numpy as np

from alignlab.data.rows import Completion, Labelled, Pair, Prompt, Ranking
from alignlab.data.template import Template
from alignlab.errors import DataError

IDENTICAL = "identical after cutting"


# A prompt and one answer to it, as token ids.
PromptAndAnswer = tuple[list[int], list[int]]


@dataclass(frozen=True)
class CompletionTokens:
    """Token ids of a prompt and one answer; `index` is its place in the split."""

    index: int
    prompt: list[int]
    completion: list[int]

    def answers(self) -> list[PromptAndAnswer]:
        """Everything of this row that a model can be asked for."""
        return [(self.prompt, self.completion)]


@dataclass(frozen=True)
class PairTokens:
    """Token ids of a pair."""

    index: int
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    def answers(self) -> list[PromptAndAnswer]:
        """Everything of this row that a model can be asked for."""
        return [(self.prompt, self.chosen), (self.prompt, self.rejected)]


@dataclass(frozen=True)
class LabelledTokens:
    """Token ids of a prompt and one answer, good or bad; `mismatched` is another row's answer, where one is needed."""

    index: int
    prompt: list[int]
    completion: list[int]
    desirable: bool
    mismatched: list[int] | None = None

    def answers(self) -> list[PromptAndAnswer]:
        """Everything of this row that a model can be asked for."""
        other = [(self.prompt, self.mismatched)] if self.mismatched is not None else []
        return [(self.prompt, self.completion), *other]


@dataclass(frozen=True)
class RankingTokens:
    """Token ids of a prompt and K graded answers."""

    index: int
    prompt: list[int]
    completions: list[list[int]]
    grades: list[float]
    margin: float | None = None

    def answers(self) -> list[PromptAndAnswer]:
        """Everything of this row that a model can be asked for."""
        return [(self.prompt, completion) for completion in self.completions]


@dataclass(frozen=True)
class PromptTokens(CompletionTokens):
    """Token ids of a prompt to be answered, with the prompt as it was said; `completion` is the data's own answer."""

    said: Prompt = ""


Tokens = CompletionTokens | PairTokens | LabelledTokens | RankingTokens


def mean_tokens(rows: Sequence[Tokens]) -> float:
    """Tokens of a row, its prompt counted once for each answer."""
    return sum(len(prompt) + len(answer) for row in rows for prompt, answer in row.answers()) / len(rows)


def mismatched(rows: Sequence[LabelledTokens]) -> list[LabelledTokens]:
    """Each row with the answer to another prompt, out of the same rows.

    A rotation by one row, or by as many as it takes for no row to meet its own prompt (the halves of a pair stand side
    by side). Where no rotation does that, each row takes the nearest one that will do in a fixed shuffle; where all
    prompts are the same, any other row will do. Raises DataError where there is only one row, or one several times.
    """
    if len({row.index for row in rows}) < 2:
        raise DataError(
            "a batch holds one row only, and a KL is estimated from other rows' answers\n  type: trainer.batch_size=16"
        )
    count = len(rows)
    asked: list[Any] = [row.prompt for row in rows]
    if all(prompt == asked[0] for prompt in asked):
        asked = [row.index for row in rows]
    for shift in range(1, count):
        if all(map(ne, asked, asked[-shift:] + asked[:-shift])):
            return [_with(row, rows[i - shift].completion) for i, row in enumerate(rows)]
    order = np.random.default_rng(0).permutation(count)
    found: dict[int, list[int]] = {}
    for place, i in enumerate(order):
        others = (order[place - back] for back in range(1, count))
        found[int(i)] = next(rows[other].completion for other in others if asked[i] != asked[other])
    return [_with(row, found[i]) for i, row in enumerate(rows)]


def _with(row: LabelledTokens, answer: list[int]) -> LabelledTokens:
    """The row with another row's answer; `dataclasses.replace` takes several times as long, and every batch asks."""
    return LabelledTokens(row.index, row.prompt, row.completion, row.desirable, answer)


@dataclass
class LengthReport:
    """How long rows are, what was cut to fit, and what was left out because of that."""

    rows: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    truncated: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    rows_cut: int = 0

    @contextmanager
    def row(self) -> Iterator[None]:
        """Count a row, and whether anything of it was cut inside."""
        before = self.truncated.total()
        yield
        self.rows += 1
        self.rows_cut += self.truncated.total() > before

    def summary(self) -> dict[str, float]:
        """Share of rows with anything cut; mean tokens and share of rows cut for each part of a row."""
        rows = max(1, self.rows)
        return {
            "truncated_frac": self.rows_cut / rows,
            **{f"mean_{part}_tokens": round(count / rows, 2) for part, count in sorted(self.tokens.items())},
            **{f"truncated_{part}_frac": self.truncated[part] / rows for part in sorted(self.tokens)},
        }


@dataclass(frozen=True)
class Cutter:
    """Cuts prompts on the left to `max_prompt_length`, then answers on the right to what is left of `max_length`."""

    max_length: int
    max_prompt_length: int

    def prompt(self, ids: list[int], report: LengthReport) -> list[int]:
        return self._count("prompt", ids, ids[-self.max_prompt_length :], report)

    def answer(self, part: str, ids: list[int], prompt: list[int], report: LengthReport) -> list[int]:
        return self._count(part, ids, ids[: self.max_length - len(prompt)], report)

    @staticmethod
    def _count(part: str, ids: list[int], kept: list[int], report: LengthReport) -> list[int]:
        report.tokens[part] += len(kept)
        report.truncated[part] += len(kept) < len(ids)
        return kept


@dataclass
class Tokenizer:
    """Rows to token ids with one template and one way to cut, counting as it goes."""

    template: Template
    cut: Cutter
    report: LengthReport = field(default_factory=LengthReport)

    def prompt(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt, cut to length."""
        return self.cut.prompt(self.template.prompt_ids(prompt), self.report)

    def answer(self, part: str, row: tuple[Prompt, str, bool], prompt: list[int], place: int) -> list[int]:
        """Ids of an answer (its prompt, text and whether it ended), cut to length. DataError where none is left."""
        ids = self.cut.answer(part, self.template.answer_ids(row[0], row[1], ended=row[2]), prompt, self.report)
        if not ids:
            raise DataError(f"row {place + 1}: {part} has no token, not even the end of the answer")
        return ids


def tokenize_completions(
    rows: Iterable[Completion | Labelled], template: Template, cut: Cutter
) -> tuple[list[CompletionTokens], LengthReport]:
    """Token ids of single answers, with the report of what was cut."""
    tokens = Tokenizer(template, cut)
    out: list[CompletionTokens] = []
    for place, row in enumerate(rows):
        with tokens.report.row():
            prompt = tokens.prompt(row.prompt)
            answer = tokens.answer("completion", (row.prompt, row.completion, row.ended), prompt, place)
            out.append(CompletionTokens(len(out), prompt, answer))
    return out, tokens.report


def tokenize_prompts(
    rows: Iterable[Completion], template: Template, cut: Cutter
) -> tuple[list[PromptTokens], LengthReport]:
    """Token ids of prompts and of the data's own answers, with the report of what was cut."""
    rows = list(rows)
    tokens, report = tokenize_completions(rows, template, cut)
    return [
        PromptTokens(one.index, one.prompt, one.completion, row.prompt) for one, row in zip(tokens, rows, strict=True)
    ], report


def tokenize_pairs(rows: Iterable[Pair], template: Template, cut: Cutter) -> tuple[list[PairTokens], LengthReport]:
    """Token ids of pairs, with the report of what was cut."""
    tokens = Tokenizer(template, cut)
    out: list[PairTokens] = []
    for place, row in enumerate(rows):
        with tokens.report.row():
            prompt = tokens.prompt(row.prompt)
            chosen = tokens.answer("chosen", (row.prompt, row.chosen, row.chosen_ended), prompt, place)
            rejected = tokens.answer("rejected", (row.prompt, row.rejected, row.rejected_ended), prompt, place)
        if chosen == rejected:
            tokens.report.dropped[IDENTICAL] += 1
        else:
            out.append(PairTokens(len(out), prompt, chosen, rejected))
    return out, tokens.report


def tokenize_labelled(
    rows: Iterable[Labelled], template: Template, cut: Cutter
) -> tuple[list[LabelledTokens], LengthReport]:
    """Token ids of labelled answers, with the report of what was cut."""
    rows = list(rows)
    tokens, report = tokenize_completions(rows, template, cut)
    return [
        LabelledTokens(one.index, one.prompt, one.completion, row.desirable)
        for one, row in zip(tokens, rows, strict=True)
    ], report


def tokenize_rankings(
    rows: Iterable[Ranking], template: Template, cut: Cutter
) -> tuple[list[RankingTokens], LengthReport]:
    """Token ids of graded answers, with the report of what was cut."""
    tokens = Tokenizer(template, cut)
    out: list[RankingTokens] = []
    for place, row in enumerate(rows):
        with tokens.report.row():
            prompt = tokens.prompt(row.prompt)
            answers = [
                tokens.answer("completion", (row.prompt, text, ended), prompt, place)
                for text, ended in zip(row.completions, row.ended, strict=True)
            ]
        if all(answer == answers[0] for answer in answers):
            tokens.report.dropped[IDENTICAL] += 1
        else:
            out.append(RankingTokens(len(out), prompt, answers, row.grades, row.margin))
    return out, tokens.report
