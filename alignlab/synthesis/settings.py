"""Settings of preference data that is made from samples of a policy: prompts, samples, labels, rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from alignlab.checks import at_least, finite, one_of
from alignlab.data.files import format_of
from alignlab.data.sources.pairs import Pairs
from alignlab.data.sources.rankings import Rankings
from alignlab.data.sources.unpaired import Unpaired
from alignlab.errors import DataError, Problem
from alignlab.evaluation.questions import read_questions
from alignlab.rollout.settings import Sampling

# Form of the rows -> the data source that reads them.
READ_BY: dict[str, type[Pairs | Unpaired | Rankings]] = {"pairs": Pairs, "labels": Unpaired, "rankings": Rankings}
FORMATS = ("jsonl", "parquet")

# Files whose prompts `data=prompts` reads, and `questions` does not. A .csv may be one of XSTest's.
_TABLES = (".csv", ".tsv", ".parquet")


@dataclass(kw_only=True)
class Synthesis(Sampling):
    """How preference data is made.

    prompts:    number of distinct prompts, in the order of the data; 0 takes all.
    questions:  a .json or .jsonl file of prompts, as in `alignlab evaluate`, instead of the training rows of `data`.
    samples:    number of answers that the policy samples for each prompt.
    seed:       seed of the samples. A sample depends on it, on the prompt and on the number of the sample.
    form:       form of the rows: pairs, labels (single answers, good or bad) or rankings (graded answers).
    preferred:  judge (the answer with the higher score is better) or data (the data's own good answers are better than
                the samples; no judge is asked).
    judge:      name of the judge that scores the answers; needed only if several are chosen.
    judging:    rate (the judge scores each answer) or compare (the judge compares every two answers to a prompt, and
                the score of an answer is the mean result of its comparisons: 1 won, 1/2 tied, 0 lost).
    pairs:      extremes (one pair for each prompt: the best answer against the worst) or all (every two answers).
    min_margin: pairs whose scores differ by less are left out.
    threshold:  answers with at least this score are good, the others bad. null: answers above the median score of
                their prompt are good, answers below it bad, and answers at the median are left out.
    format:     jsonl or parquet.
    """

    group: ClassVar[str] = "synthesis"

    batch_size: int = 32
    prompts: int = 200
    questions: str = ""
    samples: int = 2
    seed: int = 1
    form: str = "pairs"
    preferred: str = "judge"
    judge: str = ""
    judging: str = "rate"
    pairs: str = "extremes"
    min_margin: float = 0.0
    threshold: float | None = None
    format: str = "jsonl"

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from at_least("prompts", self.prompts, 0, example=200, hint="0 takes all")
        yield from at_least("seed", self.seed, 0, example=1)
        yield from one_of("form", self.form, READ_BY)
        yield from one_of("preferred", self.preferred, ("judge", "data"))
        yield from one_of("judging", self.judging, ("rate", "compare"))
        yield from one_of("pairs", self.pairs, ("extremes", "all"))
        yield from one_of("format", self.format, FORMATS)
        yield from at_least("min_margin", self.min_margin, 0.0, example=0.5)
        if self.threshold is not None:
            yield from finite("threshold", self.threshold, example=0.5)
        alone = self.preferred == "data" or (self.form == "labels" and self.threshold is not None)
        least = 2 if self.judging == "compare" or not alone else 1
        hint = "an answer is compared with the other answers to its prompt" if least > 1 else ""
        yield from at_least("samples", self.samples, least, example=4, hint=hint)
        yield from self._without_effect()

    def _without_effect(self) -> Iterator[Problem]:
        """Problems of settings that these rows would ignore."""
        judged = self.preferred == "judge"
        unused = (
            ("pairs", "extremes", self.form == "pairs", "form=pairs"),
            ("min_margin", 0.0, self.form == "pairs" and judged, "form=pairs preferred=judge"),
            ("threshold", None, self.form == "labels" and judged, "form=labels preferred=judge"),
            ("judging", "rate", judged, "preferred=judge"),
        )
        for key, default, used, where in unused:
            if getattr(self, key) != default and not used:
                shown = "null" if default is None else default
                yield Problem(key, getattr(self, key), f"has an effect only with {where}", f"{key}={shown}")

    def missing(self) -> Iterator[Problem]:
        """Problems of a file of prompts that can't be read or is incomplete."""
        if not self.questions:
            return
        try:
            rows = read_questions(self.questions)
        except DataError as error:
            fix = f"data=prompts data.path={self.questions}" if format_of(self.questions) in _TABLES else ""
            yield Problem("questions", self.questions, str(error), fix)
            return
        if self.preferred == "data" and not any(row.chosen for row in rows):
            text = "has no answers (output or chosen) that could be preferred to the samples"
            yield Problem("questions", self.questions, text, "synthesis.preferred=judge judge=gold")
