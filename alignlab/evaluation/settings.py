"""Settings of an evaluation: which prompts, how many answers, and what they are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from alignlab.checks import at_least, model_problems
from alignlab.errors import DataError, Problem
from alignlab.evaluation.graded_pairs import read_pairs
from alignlab.evaluation.questions import read_questions
from alignlab.models.lineage import comes_with_code, is_local_model
from alignlab.models.sources.base import check_pretrained
from alignlab.rollout.settings import Sampling


@dataclass(kw_only=True)
class Evaluation(Sampling):
    """What is drawn, and what it is compared with.

    seed:      with a prompt's text and a sample's number it decides the sample.

    prompts:   how many different held-out prompts, in their order; 0 takes all.
    questions: a .json or .jsonl file of prompts (or XSTest's .csv, and refusals are counted) instead of the run's own
               held-out ones: rows with `instruction` (AlpacaEval's form; answers are written as its model_outputs.json
               too), `turns` (MT-Bench's: two, the second is asked after the side's own answer to the first; answers are
               written in FastChat's form too) or `prompt`, a text or messages; `output` or `chosen`, where there, is
               the preferred answer.
    pairs:     a .json or .jsonl file of prompt, chosen, rejected and perhaps subset (RewardBench's form): how often the
               rewards that the policy implies, or a reward run's, tell them apart. Reward runs are evaluated on their
               own held-out pairs without it.
    samples:   answers to each prompt; several give best-of-n curves and smaller errors within a prompt.
    baselines: reference (what training started from), chosen (the data's preferred answers), the id of another run, or
               a model (a folder or hub name).
    proxy:     judge whose score was trained on, directly or by preferences that came from it; the watch for
               over-optimisation takes all others for held out.
    shown:     prompts on the page that shows answers side by side.
    max_kl:    largest KL to the reference, nats per answer, that the verdict accepts from a run without a proven gain:
               above it the verdict is `drifted`, unless a held-out score, win-rate or accuracy is above that of the
               start by more than its 95 % interval. 0 switches this off.
    """

    seed: int = 1
    prompts: int = 64
    questions: str = ""
    pairs: str = ""
    samples: int = 1
    baselines: list[str] = field(default_factory=lambda: ["reference"])
    proxy: str = ""
    shown: int = 20
    max_kl: float = 10.0

    def missing(self) -> Iterator[Problem]:
        """Problems of files that can't be read or lack something, and of baselines whose weights are not complete."""
        for name in self.baselines:
            # A model with code is checked later, when it is known whether its code may run.
            if is_local_model(name) and not comes_with_code(name):
                yield from model_problems("baselines", name, check_pretrained)
        if self.pairs:
            try:
                read_pairs(self.pairs)
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
            yield Problem("baselines", self.baselines, f"must be different sides, not policy: {name}")
