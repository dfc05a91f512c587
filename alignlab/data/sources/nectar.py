"""Nectar, Zhu et al. 2023, https://huggingface.co/datasets/berkeley-nest/Nectar: seven ranked answers to a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from alignlab.data.conversations import UnusableRowError, gather, read_text
from alignlab.data.files import Record
from alignlab.data.forms import read_number
from alignlab.data.own_files import LeftOutError
from alignlab.data.sources.rankings import Rankings
from alignlab.data.transcripts import transcript_turns


@dataclass(kw_only=True)
class Nectar(Rankings):
    """Rows of berkeley-nest/Nectar. The grade of an answer is its negative rank: rank 1 is best.

    The prompt is a transcript that ends with an empty turn of the assistant. Empty answers are not compared.
    """

    needed: ClassVar[tuple[tuple[str, ...], ...]] = (("prompt",), ("answers",))
    reads: ClassVar[tuple[str, ...]] = ("prompt", "answers")

    def convert(self, record: Record) -> Record:
        answers = record.get("answers")
        if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
            raise UnusableRowError("answers must be a list of {answer, rank}")
        *turns, last = transcript_turns(read_text(record.get("prompt"), "prompt"))
        if last["role"] != "assistant" or last["content"] or not turns:
            raise UnusableRowError("prompt must be a transcript that ends with an empty turn of the assistant")
        texts = gather(*(partial(read_text, a.get("answer"), f"answer {i}") for i, a in enumerate(answers, 1)))
        ranks = gather(*(partial(read_number, a.get("rank"), f"rank {i}") for i, a in enumerate(answers, 1)))
        kept = [(text, -rank) for text, rank in zip(texts, ranks, strict=True) if text.strip()]
        if len(kept) < 2:
            raise LeftOutError("fewer than two answers")
        return {"prompt": turns, "completions": [text for text, _ in kept], "grades": [grade for _, grade in kept]}
