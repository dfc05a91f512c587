"""Base classes of judges: dataclasses of settings that compare or rate answers.

Inputs and outputs of a judge are plain values.
"""

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
from alignlab.plugins import code_of
from alignlab.progress import Progress
from alignlab.statistics.intervals import Array
from alignlab.statistics.winrate import WinRate, win_rate

Turns = tuple[str, ...]


class Verdict(str, Enum):
    """The outcome of a comparison by a judge.

    INVALID:  the judge replied, but its reply holds no verdict.
    UNJUDGED: the judge was not asked, or it sent no reply.
    """

    A = "a"
    B = "b"
    TIE = "tie"
    INVALID = "invalid"
    UNJUDGED = "unjudged"

    @staticmethod
    def of(score: float) -> Verdict:
        """The verdict for a score of the first answer: A above 1/2, B below, TIE at 1/2, INVALID for NaN."""
        if np.isnan(score):
            return Verdict.INVALID
        return Verdict.TIE if score == 0.5 else Verdict.A if score > 0.5 else Verdict.B


@dataclass(frozen=True)
class Comparison:
    """Two answers to one prompt. All texts are tuples with one entry per turn. `id` is unique among the rows of a call.

    reference:    a correct answer, for templates that show one.
    conversation: the prompt with its roles, if it has any. Judges that score whole conversations use it.
    """

    id: str
    prompt: Turns
    a: Turns
    b: Turns
    reference: Turns = ()
    conversation: Prompt | None = None


@dataclass(frozen=True)
class Answer:
    """One answer to rate. The fields are those of Comparison. `ended` is False if a length limit cut the answer off."""

    id: str
    prompt: Turns
    answer: Turns
    reference: Turns = ()
    conversation: Prompt | None = None
    ended: bool = True


@dataclass(frozen=True)
class Judgement:
    """A judge's verdict on a comparison that was shown in one order.

    swapped: whether b was shown first.
    verdict: which of a and b won. The order does not change its meaning.
    score:   score of a: 1, 1/2 or 0, or a number between if the judge grades; NaN if invalid or unjudged.
    reply:   the judge's text, or the reason why there is none.
    """

    id: str
    swapped: bool
    verdict: Verdict
    score: float
    reply: str


@dataclass(frozen=True)
class Rating:
    """A judge's rating of one answer.

    score:  NaN if the reply holds no valid score.
    judged: False if the judge sent no reply.
    reply:  the judge's text, or the reason why there is none.
    """

    id: str
    score: float
    judged: bool
    reply: str


@dataclass
class JudgingCost:
    """The cost of judging.

    calls:    number of requests that were sent, including failed ones.
    cached:   number of verdicts that were already stored.
    prompt_tokens, completion_tokens: numbers of tokens.
    cost:     cost in the currency of the prices.
    failures: reason -> number of rows that are unjudged because of it.
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
    """Judgements in the order of the rows. If both orders were shown, the unswapped one comes first.

    disagreement: how the win-rate counts rows whose two orders have different verdicts (see `win_rate`).
    """

    judgements: list[Judgement]
    bill: JudgingCost
    disagreement: str = "tie"

    def scores(self) -> tuple[list[str], Array, Array | None]:
        """(ids, [R] scores of a when shown first, [R] scores of a when shown second, or None without a second order).

        Rows that are unjudged in one of their orders are left out. Raises ValueError if two rows share an id.
        """
        by_id: dict[str, list[Judgement]] = {}
        for judgement in self.judgements:
            by_id.setdefault(judgement.id, []).append(judgement)
        if len({len(found) for found in by_id.values()}) > 1 or any(len(found) > 2 for found in by_id.values()):
            raise ValueError("two rows share an id")
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
        """Win-rate of the answers a.

        prompts: id -> name of the row's prompt. Needed only if several rows share a prompt.
        ties:    how ties count (see `win_rate`).
        level:   confidence level of the interval.
        Raises ValueError if two rows share an id.
        """
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
    """Base of all judges. The dataclass is the config schema."""

    # Fields that do not change the verdicts.
    cosmetic: ClassVar[tuple[str, ...]] = ()
    # Whether a person has to answer. Such judges are asked only on request.
    asks_a_person: ClassVar[bool] = False
    # Name of the class in fingerprints if it had another name in earlier versions.
    earlier_name: ClassVar[str] = ""

    def fingerprint(self) -> str:
        """Digest of everything that decides verdicts. It is stored with every win-rate, because only win-rates with the
        same digest can be compared.
        """
        deciding = {key: value for key, value in asdict(self).items() if key not in self.cosmetic}
        code = code_of(type(self))  # of a plug-in
        parts = [self.earlier_name or type(self).__name__, deciding, self.content(), *([code] if code else [])]
        return json_digest(parts, 16)

    def content(self) -> str:
        """Digest of files that the settings only name (rules, weights); empty if there are none."""
        return ""

    @abstractmethod
    def compare(self, rows: Sequence[Comparison], store: Path) -> Judged:
        """Verdicts for all rows. `store` is the folder for replies that must not be requested twice; it is created."""

    @property
    def rates(self) -> bool:
        """Whether this judge rates single answers. Some judges only compare."""
        return type(self).rate is not Judge.rate

    def rate(self, rows: Sequence[Answer], store: Path) -> tuple[list[Rating], JudgingCost]:
        """(ratings of single answers, cost). Raises NotImplementedError for judges that only compare."""
        raise NotImplementedError(f"{type(self).__name__.lower()} compares answers; it does not rate single ones")

    def required_run(self) -> str | Sequence[str]:
        """The run that this judge needs first: the name of a stage, or stages and overrides; empty for most judges."""
        return ()

    def from_run(self, policy: Path, *, max_length: int, max_prompt_length: int) -> Judge:
        """This judge with the policy of its run, or the judge itself if it needs no run.

        max_length, max_prompt_length: lengths in tokens to which the rows of that run were cut.
        """
        return self

    def with_remote_code(self) -> Judge:
        """A copy that may run code that comes with its model; the judge itself if it has no model."""
        return self

    def with_progress(self, progress: Progress) -> Judge:
        """A copy that shows its progress; the judge itself if it has none to show."""
        return self

    def missing(self) -> Iterator[Problem]:
        """Problems with files, packages and keys that are missing. They are checked before answers are generated."""
        return iter(())


# One score per row, higher is better; NaN if there is none.
Score = Callable[[Sequence[Answer]], Sequence[float]]


@dataclass(kw_only=True)
class ScoreJudge(Judge, ABC):
    """Base of judges that score each answer by itself (a gold function, a reward model). The order does not matter.

    tie_margin: scores that differ by at most this much are a tie.
    """

    tie_margin: float = 0.0

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from at_least("tie_margin", self.tie_margin, 0, example=0.0)

    @abstractmethod
    def score(self, rows: Sequence[Answer]) -> Sequence[float]:
        """One score per row, higher is better; NaN if there is none."""

    def ready(self) -> Score:
        """`score` with everything loaded that it needs, for repeated calls."""
        return self.score

    @property
    def weights(self) -> str:
        """Folder or hub name of the classifier that scores; empty if there is none."""
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
        """Verdicts from the scores of the answers a (`first`) and b (`second`)."""
        judgements = []
        for id_, a, b in zip(ids, first, second, strict=True):
            won = float("nan") if np.isnan(a - b) else 0.5 if abs(a - b) <= self.tie_margin else float(a > b)
            judgements.append(Judgement(id_, False, Verdict.of(won), won, f"{a:.6g} and {b:.6g}"))
        return Judged(judgements, JudgingCost())

    def rate(self, rows: Sequence[Answer], store: Path) -> tuple[list[Rating], JudgingCost]:
        scores = self.score(rows)
        return [Rating(row.id, float(s), True, f"{s:.6g}") for row, s in zip(rows, scores, strict=True)], JudgingCost()
