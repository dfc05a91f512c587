"""Rows to token ids, cut to length; every cut is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from alignlab.data.rows import Completion, Pair
from alignlab.data.template import Template


@dataclass(frozen=True)
class PairTokens:
    """Token ids of a pair; `index` is its place in the split (and in the reference store)."""

    index: int
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


@dataclass(frozen=True)
class CompletionTokens:
    """Token ids of a prompt and one answer."""

    index: int
    prompt: list[int]
    completion: list[int]


@dataclass
class LengthReport:
    """How long rows are, what was cut to fit, and what was left out because of that."""

    rows: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    truncated: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    rows_cut: int = 0

    def row_done(self, cuts_before: int) -> None:
        """Count a row, and whether anything of it was cut since the parts cut were `cuts_before`."""
        self.rows += 1
        self.rows_cut += self.truncated.total() > cuts_before

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


def tokenize_pairs(rows: Iterable[Pair], template: Template, cut: Cutter) -> tuple[list[PairTokens], LengthReport]:
    """Token ids of pairs, with the report of what was cut."""
    report = LengthReport()
    out: list[PairTokens] = []
    for row in rows:
        cuts = report.truncated.total()
        prompt = cut.prompt(template.prompt_ids(row.prompt), report)
        chosen = template.answer_ids(row.prompt, row.chosen, ended=row.chosen_ended)
        rejected = template.answer_ids(row.prompt, row.rejected, ended=row.rejected_ended)
        chosen = cut.answer("chosen", chosen, prompt, report)
        rejected = cut.answer("rejected", rejected, prompt, report)
        report.row_done(cuts)
        if chosen == rejected:
            report.dropped["identical after cutting"] += 1
        else:
            out.append(PairTokens(len(out), prompt, chosen, rejected))
    return out, report


def tokenize_completions(
    rows: Iterable[Completion], template: Template, cut: Cutter
) -> tuple[list[CompletionTokens], LengthReport]:
    """Token ids of single answers, with the report of what was cut."""
    report = LengthReport()
    out = []
    for index, row in enumerate(rows):
        cuts = report.truncated.total()
        prompt = cut.prompt(template.prompt_ids(row.prompt), report)
        answer = template.answer_ids(row.prompt, row.completion, ended=row.ended)
        out.append(CompletionTokens(index, prompt, cut.answer("completion", answer, prompt, report)))
        report.row_done(cuts)
    return out, report
