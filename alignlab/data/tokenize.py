"""Turns rows into token ids and cuts them to length. Every cut is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, islice, repeat
from operator import ne
from typing import Any, TypeVar

import numpy as np

from alignlab.data.files import unusable_rows
from alignlab.data.rows import Completion, Labelled, Pair, Prompt, Ranking, messages_of
from alignlab.data.template import Encoded, Rendered, Template
from alignlab.errors import DataError

# Why rows are left out: their answers differ beyond `data.max_length`, or the tokens of their answers do not differ.
IDENTICAL, SAME_TOKENS = "identical after cutting", "identical as tokens"

# How many rows are tokenized in one call of the tokenizer.
_CHUNK = 1024

_DIFFERS = "its ids are not those of the tokenizer's own rendering of the conversation"

# How many rows are compared with the tokenizer's own rendering before training. `alignlab check` compares more.
COMPARED = 256

AnyRow = TypeVar("AnyRow", bound=Completion | Pair | Labelled | Ranking)

# A prompt and one answer to it, as token ids.
PromptAndAnswer = tuple[list[int], list[int]]


@dataclass(frozen=True)
class CompletionTokens:
    """Token ids of a prompt and one answer. `index` is the row's index in its split."""

    index: int
    prompt: list[int]
    completion: list[int]

    def answers(self) -> list[PromptAndAnswer]:
        """The prompt with each answer of the row."""
        return [(self.prompt, self.completion)]


@dataclass(frozen=True)
class PairTokens:
    """Token ids of a pair."""

    index: int
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    def answers(self) -> list[PromptAndAnswer]:
        """The prompt with each answer of the row: chosen, rejected."""
        return [(self.prompt, self.chosen), (self.prompt, self.rejected)]


@dataclass(frozen=True)
class LabelledTokens:
    """Token ids of a prompt and one good or bad answer. `mismatched` is another row's answer, if one is needed."""

    index: int
    prompt: list[int]
    completion: list[int]
    desirable: bool
    mismatched: list[int] | None = None

    def answers(self) -> list[PromptAndAnswer]:
        """The prompt with the row's answer, and with the mismatched answer if there is one."""
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
        """The prompt with each answer of the row."""
        return [(self.prompt, completion) for completion in self.completions]


@dataclass(frozen=True)
class PromptTokens(CompletionTokens):
    """Token ids of a prompt that the policy answers.

    completion: token ids of the data's own answer.
    content:    the prompt as text or turns, before tokenization.
    """

    content: Prompt = ""


Tokens = CompletionTokens | PairTokens | LabelledTokens | RankingTokens


def mismatched(rows: Sequence[LabelledTokens]) -> list[LabelledTokens]:
    """Each row with the answer to another prompt of the same rows.

    - The rows are rotated by the smallest shift at which every row gets the answer to another prompt. This can be more
      than one row, because the two halves of a pair are neighbours.
    - If there is no such shift, the rows are shuffled in a fixed order, and each row takes the answer of the nearest
      row before it that has another prompt.
    - If all prompts are equal, the answer of any other row counts as the answer to another prompt.

    Raises DataError if there is only one row, or only copies of one row.
    """
    if len({row.index for row in rows}) < 2:
        raise DataError(
            "a batch has only one row, but the KL is estimated from other rows' answers\n  type: trainer.batch_size=16"
        )
    count = len(rows)
    prompts: list[Any] = [row.prompt for row in rows]
    if all(prompt == prompts[0] for prompt in prompts):
        prompts = [row.index for row in rows]
    for shift in range(1, count):
        if all(map(ne, prompts, prompts[-shift:] + prompts[:-shift])):
            return [_with(row, rows[i - shift].completion) for i, row in enumerate(rows)]
    order = np.random.default_rng(0).permutation(count)
    answers: dict[int, list[int]] = {}
    for place, i in enumerate(order):
        others = (order[place - back] for back in range(1, count))
        answers[int(i)] = next(rows[other].completion for other in others if prompts[i] != prompts[other])
    return [_with(row, answers[i]) for i, row in enumerate(rows)]


def _with(row: LabelledTokens, answer: list[int]) -> LabelledTokens:
    """The row with another row's answer. Every batch calls this, and `dataclasses.replace` is several times slower."""
    return LabelledTokens(row.index, row.prompt, row.completion, row.desirable, answer)


@dataclass
class LengthReport:
    """Counts of a split's lengths and cuts.

    rows:      rows counted.
    tokens:    part of a row (prompt, completion, chosen, rejected) -> tokens after cutting.
    truncated: part of a row -> how often it was cut.
    dropped:   reason -> rows that were left out after cutting.
    rows_cut:  rows with at least one part cut.
    moved:     rows in which a token spans the boundary of prompt and answer, so that the boundary moved to the left.
    rewritten: rows with an answer that the chat template changes by more than the white space around it.
    dated:     rows in which the chat template writes today's date.
    opens_otherwise: rows whose answers begin otherwise than `add_generation_prompt` begins one.
    prompt_rewritten: rows with a turn of the prompt that the chat template changes in this way.
    with_ends: rows of a tokenizer without a chat template whose texts hold a token that begins or ends texts.
    with_header: rows whose texts hold what the chat template writes before an answer, if that is ordinary text.
    with_special: rows whose texts hold special tokens that the chat template does not write.
    with_other_marks: rows whose texts hold marks of another model's chat template.
    respelled: of the compared rows, those whose tokens don't decode to their text (`Template.respells`).
    compared:  rows whose ids were compared with the tokenizer's own rendering of the whole conversation.
    """

    rows: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    truncated: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    rows_cut: int = 0
    moved: int = 0
    rewritten: int = 0
    prompt_rewritten: int = 0
    dated: int = 0
    opens_otherwise: int = 0
    with_ends: int = 0
    with_header: int = 0
    with_special: int = 0
    with_other_marks: int = 0
    respelled: int = 0
    compared: int = 0

    @contextmanager
    def row(self) -> Iterator[None]:
        """Count one row, and whether any part of it is cut within the `with` block."""
        before = self.truncated.total()
        yield
        self.rows += 1
        self.rows_cut += self.truncated.total() > before

    def seams(self) -> dict[str, int]:
        """Counts of what the tokenizer and the chat template do to rows."""
        return {
            "boundary_moved": self.moved,
            "answer_rewritten": self.rewritten,
            "prompt_rewritten": self.prompt_rewritten,
            "dated": self.dated,
            "opens_otherwise": self.opens_otherwise,
            "rendered_before": self.with_ends,
            "holds_header": self.with_header,
            "holds_special": self.with_special,
            "holds_other_marks": self.with_other_marks,
            "respelled": self.respelled,
        }

    def summary(self) -> dict[str, float]:
        """Share of rows with a cut; and for each part of a row, its mean tokens and how often it was cut per row."""
        rows = max(1, self.rows)
        return {
            "truncated_frac": self.rows_cut / rows,
            **{f"{name}_frac": count / rows for name, count in self.seams().items() if count},
            **{f"mean_{part}_tokens": round(count / rows, 2) for part, count in sorted(self.tokens.items())},
            **{f"truncated_{part}_frac": self.truncated[part] / rows for part in sorted(self.tokens)},
        }


@dataclass(frozen=True)
class Cutter:
    """Cuts prompts and answers to length, in tokens.

    A prompt is cut on the left to `max_prompt_length`. An answer is cut on the right, so that it and its prompt
    together have at most `max_length` tokens.
    """

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
    """Turns rows into token ids with a template and a cutter, and counts them in a report.

    parts:   names of a row's answers in the report. One name may stand for all answers of a row.
    compare: how many rows are compared with the tokenizer's own rendering.
    """

    template: Template
    cut: Cutter
    parts: Sequence[str]
    compare: int = COMPARED
    report: LengthReport = field(default_factory=LengthReport)

    def rows(self, rows: Iterable[AnyRow]) -> Iterator[tuple[AnyRow, list[int], list[list[int]]]]:
        """Yield (row, ids of its prompt, ids of its answers), cut to length.

        Raises DataError after all rows were read. It lists the rows that can't be rendered, that have an empty answer,
        or whose ids are not those of the tokenizer's own rendering.
        """
        faults: list[tuple[str, str]] = []
        numbered = enumerate(rows, 1)
        while chunk := list(islice(numbered, _CHUNK)):
            usable, rendered = [], []
            for (number, row), text in zip(chunk, self._rendered([row for _, row in chunk]), strict=True):
                if isinstance(text, DataError):
                    faults.append((_place(number, row), str(text)))
                else:
                    usable.append((number, row))
                    rendered.append(text)
            all_encoded = self.template.encode_all(rendered)
            compared = max(0, min(len(usable), self.compare - self.report.compared))
            spelled = zip(rendered[:compared], all_encoded[:compared], strict=True)
            self.report.respelled += sum(self.template.respells(*row) for row in spelled)
            differ = self._differing([row for _, row in usable], all_encoded, compared)
            for (number, row), encoded, differs in zip(usable, all_encoded, differ, strict=True):
                with self.report.row():
                    prompt, answers = self._cut(encoded)
                self.report.moved += encoded.moved
                if fault := _DIFFERS if differs else self._empty(answers):
                    faults.append((_place(number, row), fault))
                else:
                    yield row, prompt, answers
        if faults:
            raise unusable_rows("the data", faults)

    def _rendered(self, rows: Sequence[AnyRow]) -> Iterator[Rendered | DataError]:
        """Yield each row as text, or what is wrong with it: it was rendered before, or it can't be rendered."""
        all_rendered = self.template.render_all([(row.prompt, row.answers()) for row in rows])
        for row, rendered in zip(rows, all_rendered, strict=True):
            contents = [turn["content"] for turn in messages_of(row.prompt)] + [text for text, _ in row.answers()]
            if marks := sorted({mark for text in contents for mark in self.template.marks_in(text)}):
                yield DataError(
                    f"its texts hold marks of the chat template ({', '.join(marks)}), which would be written twice: "
                    "type data.template=none if the rows were rendered before, or remove the marks"
                )
                continue
            if isinstance(rendered, Rendered):
                self.report.rewritten += rendered.rewritten
                self.report.prompt_rewritten += rendered.prompt_rewritten
                self.report.dated += self.template.dated
                self.report.opens_otherwise += self.template.opens_otherwise
                self.report.with_ends += any(map(self.template.holds_ends, contents))
                self.report.with_header += any(map(self.template.holds_header, contents))
                self.report.with_special += any(map(self.template.holds_special, contents))
                self.report.with_other_marks += any(map(self.template.holds_other_marks, contents))
            yield rendered

    def _differing(self, rows: Sequence[AnyRow], encoded: Sequence[Encoded], first: int) -> Iterator[bool]:
        """Yield for each row whether its ids were found to differ from those of the tokenizer's own rendering.

        Of these rows, the first `first` are compared.
        """
        self.report.compared += first
        yield from self.template.differing([(row.prompt, row.answers()) for row in rows[:first]], encoded[:first])
        yield from repeat(False, len(rows) - first)

    def _empty(self, answers: Sequence[Sequence[int]]) -> str:
        """What is wrong with the answers of a row if one has no token; empty if all have one."""
        if all(answers):
            return ""
        empty = next(name for name, ids in zip(self._names(len(answers)), answers, strict=True) if not ids)
        return f"{empty} has no token, not even the end of the answer"

    def _cut(self, encoded: Encoded) -> tuple[list[int], list[list[int]]]:
        prompt = self.cut.prompt(encoded.prompt, self.report)
        named = zip(self._names(len(encoded.answers)), encoded.answers, strict=True)
        return prompt, [self.cut.answer(name, ids, prompt, self.report) for name, ids in named]

    def why_identical(self, prompt: Sequence[int], answer: Sequence[int]) -> str:
        """Why answers with different texts have the same tokens."""
        return IDENTICAL if len(prompt) + len(answer) == self.cut.max_length else SAME_TOKENS

    def _names(self, count: int) -> Sequence[str]:
        return self.parts if len(self.parts) == count else [self.parts[0]] * count


def _place(number: int, row: AnyRow) -> str:
    return str(row.place or f"row {number}")


# Collects the token rows of a split: into a list, or into a file (alignlab/data/token_table.py).
Collect = Callable[[Iterator[Any]], Sequence[Any]]


def tokenize_completions(
    rows: Iterable[Completion | Labelled],
    template: Template,
    cut: Cutter,
    compare: int = COMPARED,
    collect: Collect = list,
) -> tuple[Sequence[CompletionTokens], LengthReport]:
    """(token ids of single answers, report of their cuts). Raises DataError if an answer has no token."""
    tokens = Tokenizer(template, cut, ["completion"], compare)
    out = (CompletionTokens(i, prompt, answers[0]) for i, (_, prompt, answers) in enumerate(tokens.rows(rows)))
    return collect(out), tokens.report


def tokenize_prompts(
    rows: Iterable[Completion], template: Template, cut: Cutter, compare: int = COMPARED, collect: Collect = list
) -> tuple[Sequence[PromptTokens], LengthReport]:
    """(token ids of prompts and the data's own answers, report of cuts). Raises DataError if an answer has no token."""
    tokens = Tokenizer(template, cut, ["completion"], compare)
    out = (
        PromptTokens(i, prompt, answers[0], row.prompt) for i, (row, prompt, answers) in enumerate(tokens.rows(rows))
    )
    return collect(out), tokens.report


def tokenize_pairs(
    rows: Iterable[Pair], template: Template, cut: Cutter, compare: int = COMPARED, collect: Collect = list
) -> tuple[Sequence[PairTokens], LengthReport]:
    """(token ids of pairs, report of cuts). Raises DataError if an answer has no token.

    Pairs whose answers have the same tokens after cutting are left out and counted in the report.
    """
    tokens = Tokenizer(template, cut, ["chosen", "rejected"], compare)

    def different() -> Iterator[PairTokens]:
        places = count()
        for _, prompt, (chosen, rejected) in tokens.rows(rows):
            if chosen == rejected:
                tokens.report.dropped[tokens.why_identical(prompt, chosen)] += 1
            else:
                yield PairTokens(next(places), prompt, chosen, rejected)

    return collect(different()), tokens.report


def tokenize_labelled(
    rows: Iterable[Labelled], template: Template, cut: Cutter, compare: int = COMPARED, collect: Collect = list
) -> tuple[Sequence[LabelledTokens], LengthReport]:
    """(token ids of labelled answers, report of cuts). Raises DataError if an answer has no token."""
    tokens = Tokenizer(template, cut, ["completion"], compare)
    out = (
        LabelledTokens(i, prompt, answers[0], row.desirable)
        for i, (row, prompt, answers) in enumerate(tokens.rows(rows))
    )
    return collect(out), tokens.report


def tokenize_rankings(
    rows: Iterable[Ranking], template: Template, cut: Cutter, compare: int = COMPARED, collect: Collect = list
) -> tuple[Sequence[RankingTokens], LengthReport]:
    """(token ids of graded answers, report of cuts). Raises DataError if an answer has no token.

    Rankings whose answers all have the same tokens after cutting are left out and counted in the report.
    """
    tokens = Tokenizer(template, cut, ["completion"], compare)

    def different() -> Iterator[RankingTokens]:
        places = count()
        for row, prompt, answers in tokens.rows(rows):
            if all(answer == answers[0] for answer in answers):
                tokens.report.dropped[tokens.why_identical(prompt, answers[0])] += 1
            else:
                yield RankingTokens(next(places), prompt, answers, row.grades, row.margin)

    return collect(different()), tokens.report
