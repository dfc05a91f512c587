"""A judge that prefers short answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignlab.judges.base import Answer, ScoreJudge


@dataclass(kw_only=True)
class Shorter(ScoreJudge):
    """The answer with fewer characters wins."""

    def score(self, rows: Sequence[Answer]) -> Sequence[float]:
        return [-float(len(row.answer[-1])) for row in rows]
