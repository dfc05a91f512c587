"""The evaluation suite of a run: its prompts, its sampling settings and its judges."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from alignlab.config.plan import Plan
from alignlab.data.layout import PLAIN
from alignlab.data.rows import Completion
from alignlab.data.sources.base import ReferenceTable, Source
from alignlab.evaluation.lab_reward import LabReward
from alignlab.evaluation.questions import Question, questions_of, read_questions
from alignlab.evaluation.settings import Evaluation
from alignlab.evaluation.suite import Suite
from alignlab.judges.base import Judge
from alignlab.lab.world import World
from alignlab.models.reference import ScoringOptions
from alignlab.progress import Progress
from alignlab.rollout.engines.base import Engine
from alignlab.spelling import counted
from alignlab.training.dataset import refuse_changed_data
from alignlab.training.setup import InitialPolicy

# Most answers, and most tokens, of one forward pass that computes log-probabilities.
REFERENCE_ROWS, REFERENCE_TOKENS = 32, 4096

# Unless `evaluation.at_end=true`, the evaluations of a run, during training and at its end, sample for at most this
# share of its training time. The evaluation at the end has at least LEAST_PROMPTS prompts nevertheless.
TIME_SHARE, LEAST_PROMPTS = 0.1, 16


def time_left(seconds: float, spent: float) -> float:
    """The time (s) that evaluations may still sample for; negative if they have used up more than their share.

    seconds: wall time of the training so far, with its evaluations.
    spent:   the part of it that evaluations have sampled for.
    """
    return TIME_SHARE * (seconds - spent) - spent


def suite_of(
    plan: Plan,
    start: InitialPolicy,
    settings: Evaluation,
    engine: Engine,
    device: torch.device,
    progress: Progress,
    kept_in: Path,
) -> Suite:
    """The prompts of an evaluation with its settings. Prompts come from a file or from the run's held-out rows.

    engine:  samples the answers.
    kept_in: folder of sampled answers, which later evaluations reuse.
    """
    questions, world = questions_of(_rows(plan, start, settings.questions), settings.prompts), plan.train.data.world
    return Suite(
        settings,
        questions,
        sys.maxsize if settings.questions else plan.train.data.max_prompt_length,
        ScoringOptions(PLAIN, REFERENCE_ROWS, REFERENCE_TOKENS, device, progress),
        kept_in,
        all_prompts=world is not None and not settings.questions and len(questions) == world.prompts,
        engine=engine,
    )


def sampling_of(settings: Evaluation, engine: Engine) -> str:
    """A text of the settings that determine sampled answers, besides the weights and the prompts."""
    by = f", {engine.identity}" if engine.identity else ""
    return f"{counted(settings.max_new_tokens, 'token')}, temperature {settings.temperature}, seed {settings.seed}{by}"


def cap_to_horizon(settings: Evaluation, world: World | None) -> Evaluation:
    """The settings with at most as many new tokens as an answer of the lab has; unchanged outside the lab."""
    return settings if world is None or not world.is_whole else replace(settings, max_new_tokens=world.length)


def judges_of(judges: Mapping[str, Judge], world: World | None) -> dict[str, Judge]:
    """The given judges. In the lab its gold reward is added as the judge `gold`, unless a judge has that name."""
    return {**({"gold": LabReward(world=world)} if world is not None and world.is_whole else {}), **judges}


def _rows(plan: Plan, start: InitialPolicy, questions: str) -> Iterable[Completion | Question]:
    """The prompts of a file, or the run's held-out prompts with the best answer that the data has for each."""
    if questions:
        return read_questions(questions)
    refuse_changed_data(plan)
    return best_answers(plan.train.data, lambda world: start.exact_logps)


def best_answers(source: Source, reference: ReferenceTable | None) -> Iterable[Completion]:
    """The held-out prompts of a data source, each with the best answer that the data has for it."""
    if "pairs" in source.shapes:
        return [pair.preferred() for pair in source.pairs("eval", reference).rows]
    if "labelled" in source.shapes:
        found = source.labelled("eval", reference).rows
        return [
            Completion(row.prompt, row.completion, row.ended) for row in sorted(found, key=lambda r: not r.desirable)
        ]
    if "rankings" not in source.shapes:
        return source.completions("eval").rows
    ranked = source.rankings("eval", reference).rows
    best = [(row, max(range(len(row.grades)), key=row.grades.__getitem__)) for row in ranked]
    return [Completion(row.prompt, row.completions[i], row.ended[i]) for row, i in best]
