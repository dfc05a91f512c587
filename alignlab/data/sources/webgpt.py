"""WebGPT comparisons, Nakano et al. 2021, https://arxiv.org/abs/2112.09332: two scored answers to a question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignlab.data.conversations import UnusableRowError
from alignlab.data.files import Record
from alignlab.data.forms import read_number
from alignlab.data.own_files import LeftOutError
from alignlab.data.sources.pairs import Pairs


@dataclass(kw_only=True)
class WebGPT(Pairs):
    """Rows of openai/webgpt_comparisons. The margin is the difference of the scores. Ties are left out and counted."""

    needed: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("question",), ("answer_0",), ("answer_1",), ("score_0",), ("score_1",),
    )  # fmt: skip
    reads: ClassVar[tuple[str, ...]] = ("question", "answer_0", "answer_1", "score_0", "score_1")

    def convert(self, record: Record) -> Record:
        question = record.get("question")
        if not isinstance(question, dict):
            raise UnusableRowError(f"question must be {{full_text: ...}}, not {question!r:.80}")
        first, second = (read_number(record.get(name), name) for name in ("score_0", "score_1"))
        if first == second:
            raise LeftOutError("tie")
        better, worse = ("answer_0", "answer_1") if first > second else ("answer_1", "answer_0")
        return {
            "prompt": question.get("full_text"),
            "chosen": record.get(better),
            "rejected": record.get(worse),
            "margin": abs(first - second),
        }
