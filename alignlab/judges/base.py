"""What a judge is: a dataclass of settings that compares or rates answers, given and returned as plain values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import ClassVar

import numpy as np

from alignlab.checks import Checked, at_least
from alignlab.data.rows import Prompt
from alignlab.errors import Problem
from alignlab.integrity import json_digest
from alignlab.statistics.intervals import Array
from alignlab.statistics.winrate import WinRate, win_rate

Turns = tuple[str, ...]


class Verdict(str, Enum):
    """What a judge said of a comparison. INVALID: it answered, and that was no verdict. UNJUDGED: it was not asked, or
    no answer came.
    """

    A = "a"
    B = "b"
    TIE = "tie"
    INVALID = "invalid"
    UNJUDGED = "unjudged"

    @staticmethod
    def of(score: float) -> Verdict:
        """Of what the first answer got: above, below or at 1/2; NaN is INVALID."""
        if np.isnan(score):
            return Verdict.INVALID
        return Verdict.TIE if score == 0.5 else Verdict.A if score > 0.5 else Verdict.B


@dataclass(frozen=True)
class Comparison:
    """Two answers to one prompt. All texts are tuples with one entry a turn; `id` is unique among the rows of a call.

    reference:    a correct answer, for templates that show one.
    conversation: the prompt with its roles, where it has any; judges that are models of conversations read it so.
    """

    id: str
    prompt: Turns
    a: Turns
    b: Turns
    reference: Turns = ()
    conversation: Prompt | None = None


@dataclass(frozen=True)
class Answer:
    """One answer to rate; as Comparison. ended: False where a length limit cut it off."""

    id: str
    prompt: Turns
    answer: Turns
    reference: Turns = ()
    conversation: Prompt | None = None
    ended: bool = True


@dataclass(frozen=True)
class Judgement:
    """What a judge said of a comparison in one order.

    swapped: b was shown first.
    verdict: of a and b, whatever the order.
    score:   what a got: 1, 1/2, 0, or between where the judge grades; NaN where invalid or unjudged.
    said:    the judge's words, or why there are none.
    """

    id: str
    swapped: bool
    verdict: Verdict
    score: float
    said: str


@dataclass(frozen=True)
class Rating:
    """What a judge gave an answer; score is NaN where it said no valid one, `judged` False where no answer came."""

    id: str
    score: float
    judged: bool
    said: str


@dataclass
class JudgingCost:
    """What judging took. calls: requests sent, those that failed too. cached: verdicts that were there already.

    cost:     in the currency of the prices.
    failures: reason -> how many rows went unjudged for it.
    """

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: JudgingCost) -> JudgingCost:
        return JudgingCost(
            self.calls + other.calls,
            self.cached + other.cached,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
            self.failures + other.failures,
        )


@dataclass(frozen=True)
class Judged:
    """Judgements in the order of the rows (and, where both orders were shown, unswapped before swapped)."""

    judgements: list[Judgement]
    bill: JudgingCost
    disagreement: str = "tie"

    def scores(self) -> tuple[list[str], Array, Array | None]:
        """Ids, and [R] what a got when shown first and when shown second; None where only one order was asked for.

        Rows that are unjudged in one of their orders are left out. Raises ValueError where two rows share an id.
        """
        by_id: dict[str, list[Judgement]] = {}
        for judgement in self.judgements:
            by_id.setdefault(judgement.id, []).append(judgement)
        if len({len(found) for found in by_id.values()}) > 1 or any(len(found) > 2 for found in by_id.values()):
            raise ValueError("rows must have ids of their own")
        complete = {
            id_: sorted(found, key=lambda j: j.swapped)
            for id_, found in by_id.items()
            if all(j.verdict is not Verdict.UNJUDGED for j in found)
        }
        table = np.array([[j.score for j in found] for found in complete.values()], dtype=np.float64)
        both = table.ndim == 2 and table.shape[1] == 2
        return list(complete), table[:, 0] if len(table) else np.zeros(0), table[:, 1] if both else None

    def win_rate(
        self, prompts: Mapping[str, Hashable] | None = None, *, ties: str = "half", level: float = 0.95
    ) -> WinRate:
        """Win-rate of the answers a. prompts: id -> name of its prompt, where several rows share one."""
        ids, first, second = self.scores()
        unjudged = len({j.id for j in self.judgements}) - len(ids)
        return win_rate(
            first,
            second,
            [prompts[i] for i in ids] if prompts is not None else None,
            unjudged=unjudged,
            ties=ties,
            disagreement=self.disagreement,
            level=level,
        )


@dataclass(kw_only=True)
class Judge(Checked, ABC):
    """Base of all judges: the dataclass is the config schema."""

    # Fields that change how judging goes, and not what comes out of it.
    cosmetic: ClassVar[tuple[str, ...]] = ()

    def fingerprint(self) -> str:
        """Digest of everything that decides verdicts; stands beside every win-rate that is to be compared."""
        deciding = {key: value for key, value in asdict(self).items() if key not in self.cosmetic}
        return json_digest([type(self).__name__, deciding, self.content()], 16)

    def content(self) -> str:
        """Digest of what the settings only name (a file of rules, weights); empty where they say everything."""
        return ""

    @abstractmethod
    def compare(self, rows: Sequence[Comparison], store: Path) -> Judged:
        """Verdicts for all rows. store: folder for what must not be asked twice; made if it is not there."""

    def rate(self, rows: Sequence[Answer], store: Path) -> tuple[list[Rating], JudgingCost]:
        """Scores for single answers. Raises NotImplementedError for judges that only compare."""
        raise NotImplementedError(f"{type(self).__name__.lower()} compares answers; it does not rate single ones")

    def required_run(self) -> str | Sequence[str]:
        """The run that this judge needs first: the name of a stage, or stages and overrides; empty for most judges."""
        return ()

    def from_run(self, policy: Path, *, max_length: int, max_prompt_length: int) -> Judge:
        """This judge with the policy folder of that run, whose rows were cut so; itself where it needs none."""
        return self

    def with_remote_code(self) -> Judge:
        """A copy that may run code that comes with its model; the judge itself if it has no model."""
        return self

    def missing(self) -> Iterator[Problem]:
        """Files, packages and keys that are not there. Looked at before anything is generated."""
        return iter(())


# One score a row, higher is better; NaN where there is none.
Score = Callable[[Sequence[Answer]], Sequence[float]]


@dataclass(kw_only=True)
class ScoreJudge(Judge, ABC):
    """Base of judges that score each answer by itself (a gold function, a reward model): the order can't matter.

    tie_margin: scores that differ by no more than this make a tie.
    """

    tie_margin: float = 0.0

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from at_least("tie_margin", self.tie_margin, 0, example=0.0)

    @abstractmethod
    def score(self, rows: Sequence[Answer]) -> Sequence[float]:
        """One score a row, higher is better; NaN where there is none."""

    def ready(self) -> Score:
        """`score` with everything loaded that it takes, for who asks again and again."""
        return self.score

    @property
    def weights(self) -> str:
        """Folder or hub name of the classifier that scores, where one does."""
        return ""

    @property
    def allows_remote_code(self) -> bool:
        """Whether code that comes with the classifier may run."""
        return False

    def compare(self, rows: Sequence[Comparison], store: Path) -> Judged:
        both = [Answer(row.id, row.prompt, row.a, row.reference, row.conversation) for row in rows]
        both += [Answer(row.id, row.prompt, row.b, row.reference, row.conversation) for row in rows]
        scores = self.score(both)
        return self.compare_scores([row.id for row in rows], scores[: len(rows)], scores[len(rows) :])

    def compare_scores(self, ids: Sequence[str], first: Sequence[float], second: Sequence[float]) -> Judged:
        """Verdicts from scores of the answers a and b."""
        judgements = []
        for id_, a, b in zip(ids, first, second, strict=True):
            won = float("nan") if np.isnan(a - b) else 0.5 if abs(a - b) <= self.tie_margin else float(a > b)
            judgements.append(Judgement(id_, False, Verdict.of(won), won, f"{a:.6g} and {b:.6g}"))
        return Judged(judgements, JudgingCost())

    def rate(self, rows: Sequence[Answer], store: Path) -> tuple[list[Rating], JudgingCost]:
        scores = self.score(rows)
        return [Rating(row.id, float(s), True, f"{s:.6g}") for row, s in zip(rows, scores, strict=True)], JudgingCost()
