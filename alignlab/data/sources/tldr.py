"""TL;DR comparisons, Stiennon et al. 2020, https://arxiv.org/abs/2009.01325: two summaries of a post."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignlab.data.conversations import UnusableRowError
from alignlab.data.files import Record
from alignlab.data.sources.pairs import Pairs


@dataclass(kw_only=True)
class TLDR(Pairs):
    """Rows of openai/summarize_from_feedback (comparisons). The prompt is the post in the form of the authors."""

    needed: ClassVar[tuple[tuple[str, ...], ...]] = (("info",), ("summaries",), ("choice",))
    reads: ClassVar[tuple[str, ...]] = ("info", "summaries", "choice")

    def convert(self, record: Record) -> Record:
        info, summaries, choice = record.get("info"), record.get("summaries"), record.get("choice")
        if not isinstance(info, dict) or not (info.get("post") or info.get("article")):
            raise UnusableRowError("info must have a post or an article")
        if not isinstance(summaries, list) or len(summaries) != 2 or not all(isinstance(s, dict) for s in summaries):
            raise UnusableRowError("summaries must be two of {text}")
        if choice not in (0, 1):
            raise UnusableRowError(f"choice must be 0 or 1, not {choice!r:.80}")
        chosen, rejected = (summaries[i].get("text") for i in ((0, 1) if choice == 0 else (1, 0)))
        return {"prompt": _prompt(info), "chosen": chosen, "rejected": rejected}


def _prompt(info: Record) -> str:
    if not info.get("post"):
        return f"Article: {info['article']}\n\nTL;DR:"
    return f"SUBREDDIT: r/{info.get('subreddit')}\n\nTITLE: {info.get('title')}\n\nPOST: {info['post']}\n\nTL;DR:"
