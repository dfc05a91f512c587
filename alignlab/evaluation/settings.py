"""Settings of an evaluation: prompts, number of answers, baselines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from alignlab.checks import at_least, model_problems
from alignlab.errors import DataError, Problem
from alignlab.evaluation.graded_pairs import read_graded
from alignlab.evaluation.questions import PROMPTS, read_questions
from alignlab.models.lineage import comes_with_code, is_local_model
from alignlab.models.sources.base import check_pretrained
from alignlab.rollout.settings import Sampling


@dataclass(kw_only=True)
class Evaluation(Sampling):
    """What an evaluation samples, and what it compares the samples with.

    seed:      seed of the samples. A sample depends on it, on the prompt's text and on the number of the sample.

    prompts:   number of distinct held-out prompts, in their order; 0 takes all.
    questions: a .json or .jsonl file of prompts, instead of the run's own held-out prompts. Its rows have one of these:
               - `instruction`, as in AlpacaEval. Answers are also written as its model_outputs.json.
               - `turns`, one or two as in MT-Bench. The second turn follows the side's own answer to the first one.
                 Answers are also written in FastChat's format.
               - `prompt`, a text or messages.
               A column `output` or `chosen` holds the preferred answer, if there is one. XSTest's .csv works too; then
               refusals are counted.
    pairs:     a .jsonl, .json, .parquet or .csv file with prompt, chosen, rejected and optionally subset (RewardBench's
               format), or with lists of answers in chosen and rejected (RewardBench 2's; no .csv). The accuracy of the
               policy's implicit rewards, or of a reward run's rewards, is computed on it. Without it, reward runs are
               evaluated on their own held-out pairs.
    samples:   number of answers to each prompt. Several answers give best-of-n curves and smaller errors within a
               prompt.
    baselines: reference (the policy before training), chosen (the data's preferred answers), the id of another run, or
               a model (a folder or a hub name).
    proxy:     judge whose score the run trained on, directly or through preferences made from it. The check for
               over-optimisation treats all other judges as held out.
    shown:     number of prompts on the page that shows answers next to each other.
    max_kl:    largest KL to the reference (nats per answer) of a run without a proven gain. Above it the verdict is
               `drifted`, unless a held-out score, win-rate or accuracy is above that of the start by more than its 95 %
               interval. 0 switches this off.
    """

    seed: int = 1
    prompts: int = PROMPTS
    questions: str = ""
    pairs: str = ""
    samples: int = 1
    baselines: list[str] = field(default_factory=lambda: ["reference"])
    proxy: str = ""
    shown: int = 20
    max_kl: float = 10.0

    def missing(self) -> Iterator[Problem]:
        """Problems of files that can't be read or are incomplete, and of baselines with incomplete weights."""
        for name in self.baselines:
            # A model with code is checked later, when it is known whether its code may run.
            if is_local_model(name) and not comes_with_code(name):
                yield from model_problems("baselines", name, check_pretrained)
        if self.pairs:
            try:
                read_graded(self.pairs)
            except DataError as error:
                yield Problem("pairs", self.pairs, str(error))
        if not self.questions:
            return
        try:
            rows = read_questions(self.questions)
        except DataError as error:
            yield Problem("questions", self.questions, str(error))
        else:
            if "chosen" in self.baselines and not all(row.chosen and not row.second for row in rows):
                text = "not every row has an answer (output or chosen) to compare with"
                yield Problem("questions", self.questions, text, "evaluation.baselines=[reference]")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from at_least("seed", self.seed, 0, example=1)
        yield from at_least("prompts", self.prompts, 0, example=64, hint="0 takes all")
        yield from at_least("samples", self.samples, 1, example=4)
        yield from at_least("shown", self.shown, 0, example=20)
        yield from at_least("max_kl", self.max_kl, 0.0, example=10.0, hint="nats per answer; 0 switches the check off")
        for name in {n for n in self.baselines if self.baselines.count(n) > 1 or n == "policy"}:
            yield Problem("baselines", self.baselines, f"must be different sides, and none may be policy: {name}")
