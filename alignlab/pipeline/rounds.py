"""Iterative training: each round samples the policy of the round before, labels the samples and trains on them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alignlab.config.plan import Plan
from alignlab.pipeline.policies import finished_policy, policy_of_model, policy_of_run
from alignlab.pipeline.requested_synthesis import judge_of
from alignlab.pipeline.run import run_plan
from alignlab.pipeline.synthesize import Request, Synthesized, synthesize
from alignlab.progress import bar_or_lines

log = logging.getLogger(__name__)

# (file of the rows of a round, plan of the run that was sampled or None) -> plan of the round's run.
PlanRound = Callable[[Path, Plan | None], Plan]


@dataclass(frozen=True)
class Round:
    """A round that has ended: its rows, the plan of its run, and the run's record."""

    number: int
    made: Synthesized
    plan: Plan
    record: dict[str, Any]


def run_rounds(first: Plan, plan_round: PlanRound, overrides: list[str]) -> Iterator[Round]:
    """Run all rounds of a plan and yield each one when it has ended. Finished runs and rows are not made again.

    The first round samples the policy that the plan starts from. All rounds have the same prompts and other seeds.
    Raises ParentError if a run has no policy for the next round.
    """
    train, before = first.train, first.parent
    judge = judge_of(train.synthesis, train.judge, first.judges, train.data)
    for number in range(1, train.rounds + 1):
        log.info("round %d of %d", number, train.rounds)
        if before is None:
            policy = policy_of_model(train.model)
        else:
            policy = policy_of_run(before) if number == 1 else finished_policy(before)
        made = synthesize(
            Request(
                replace(train.synthesis, seed=train.synthesis.seed + number - 1),
                policy,
                None if train.synthesis.questions else train.data,
                judge,
                Path(train.output_root),
                train.trainer.accelerator,
                bar_or_lines(train.trainer.progress),
                train.engine,
            )
        )
        plan = plan_round(made.file, before)
        yield Round(number, made, plan, run_plan(plan, overrides=overrides))
        before = plan
