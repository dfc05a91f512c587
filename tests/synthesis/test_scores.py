"""Scores of samples: by rating with a store, so that no answer is scored twice, and by comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from alignlab.judges.base import (
    Answer,
    Comparison,
    Judge,
    Judged,
    Judgement,
    JudgingCost,
    Rating,
    ScoreJudge,
    Verdict,
)
from alignlab.judges.cache import Store
from alignlab.judges.llm import LLM
from alignlab.progress import silent
from alignlab.synthesis.samples import SampledAnswer
from alignlab.synthesis.scores import compared, rated


@dataclass(kw_only=True)
class Length(ScoreJudge):
    """Scores an answer by its length, and notes what it is asked."""

    asked: list[str] = field(default_factory=list)

    cosmetic = ("asked",)

    def score(self, rows: Sequence[Answer]) -> Sequence[float]:
        self.asked += [row.answer[-1] for row in rows]
        return [float(len(row.answer[-1])) for row in rows]


@dataclass(kw_only=True)
class Longer(Judge):
    """Compares in both orders: the longer answer wins. It has no opinion on some answers."""

    silent_on: str = "?"
    invalid_on: str = "!"

    def compare(self, rows: Sequence[Comparison], store: Path) -> Judged:
        found = []
        for row in rows:
            for swapped in (False, True):
                a, b = row.a[-1], row.b[-1]
                score = 0.5 if len(a) == len(b) else float(len(a) > len(b))
                if "first" in (a, b):  # it prefers what is shown first
                    score = float(not swapped)
                score = math.nan if {self.silent_on, self.invalid_on} & {a, b} else score
                verdict = Verdict.UNJUDGED if self.silent_on in (a, b) else Verdict.of(score)
                found.append(Judgement(row.id, swapped, verdict, score, ""))
        return Judged(found, JudgingCost(calls=len(found)))


@dataclass(kw_only=True)
class Rater(Longer):
    def rate(self, rows: Sequence[Answer], store: Path) -> tuple[list[Rating], JudgingCost]:
        known = [row.answer[-1] != self.silent_on for row in rows]
        return [
            Rating(row.id, float(len(row.answer[-1])) if judged else math.nan, judged, "")
            for row, judged in zip(rows, known, strict=True)
        ], JudgingCost(calls=len(rows))


def answered(*texts: str) -> tuple[str, list[SampledAnswer]]:
    return "p", [SampledAnswer(text, True) for text in texts]


def test_scores_are_stored_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge is stopped after the second prompt. The next time it is asked for the other prompts only."""
    asked = [answered(f"{'x' * i}", f"{'y' * i}long") for i in range(1, 6)]
    monkeypatch.setattr("alignlab.synthesis.scores._AT_ONCE", 2)
    judge, kept, put = Length(), Store(tmp_path / "kept"), Store.put

    def stopped(store: Store, request: dict[str, object], reply: dict[str, object]) -> None:
        if len(list((tmp_path / "kept").rglob("*.json"))) == 2:
            raise KeyboardInterrupt
        put(store, request, reply)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", stopped)
        with pytest.raises(KeyboardInterrupt):
            rated(judge, asked, kept, tmp_path, silent)
    assert len(judge.asked) == 6, "two prompts are stored, and the third one's scores are lost"
    judge.asked.clear()
    assert rated(judge, asked, kept, tmp_path, silent).table == [[float(i), float(i + 4)] for i in range(1, 6)]
    assert judge.asked == [text for _, answers in asked[2:] for text in (a.text for a in answers)]
    judge.asked.clear()
    assert rated(judge, asked, kept, tmp_path, silent).table[0] == [1.0, 5.0]
    assert judge.asked == []
    rated(Length(tie_margin=1.0), asked[:1], kept, tmp_path, silent)
    assert len(list((tmp_path / "kept").rglob("*.json"))) == 6, "another judge has scores of its own"


def test_a_judge_that_rates(tmp_path: Path) -> None:
    found = rated(Rater(), [answered("a", "bbb"), answered("?", "cc")], Store(tmp_path), tmp_path, silent)
    assert found.table[0] == [1.0, 3.0]
    assert math.isnan(found.table[1][0])
    assert (found.table[1][1], found.unjudged, found.cost.calls) == (2.0, 1, 4)


def test_comparisons(tmp_path: Path) -> None:
    """The score is the mean result of the comparisons. Two orders with different verdicts are a tie."""
    found = compared(Longer(), [answered("a", "bbb", "cc", "dd"), answered("e", "first")], tmp_path, silent)
    assert found.table == [[0.0, 1.0, 0.5, 0.5], [0.5, 0.5]]
    assert (found.unjudged, found.cost.calls) == (0, 14)


@pytest.mark.parametrize(("text", "unjudged"), [("?", 2), ("!", 0)])
def test_a_comparison_without_a_verdict(text: str, unjudged: int, tmp_path: Path) -> None:
    found = compared(Longer(), [answered("a", text, "cc"), answered("e", "ff")], tmp_path, silent)
    assert all(map(math.isnan, found.table[0]))
    assert (found.table[1], found.unjudged) == ([0.0, 1.0], unjudged)


def test_which_judges_rate() -> None:
    assert not Longer().rates
    assert Rater().rates
    assert Length().rates
    assert LLM(model="m").rates
    assert not LLM(model="m", template="token").rates
