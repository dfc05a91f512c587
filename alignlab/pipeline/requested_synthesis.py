"""Turns the config of `alignlab synthesize` into the policy, the prompts and the judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from alignlab.config.plan import Plan
from alignlab.config.schemas import Evaluate, Synthesize, labelling_judge, labelling_problems
from alignlab.data.sources.base import Source
from alignlab.errors import ConfigError, Problem
from alignlab.evaluation.lab_reward import LabReward
from alignlab.judges.base import Judge
from alignlab.pipeline.policies import policy_of_model, policy_of_run
from alignlab.pipeline.requested_runs import finished_plan, is_reward_model, requested_runs
from alignlab.pipeline.run import ready_judges
from alignlab.pipeline.synthesize import Request
from alignlab.progress import bar_or_lines
from alignlab.synthesis.settings import Synthesis


def run_to_sample(wanted: Synthesize) -> Plan:
    """The plan of the finished run that `run` names. Raises ConfigError if it names none, several or a reward model."""
    asked = Evaluate(
        run=wanted.run,
        engine=wanted.engine,
        output_root=wanted.output_root,
        trust_remote_code=wanted.trust_remote_code,
    )
    root, ids = requested_runs(asked)
    if len(ids) > 1:
        text = f"is a sweep with several runs; name one of them: {', '.join(ids[:5])}"
        raise ConfigError([Problem("run", wanted.run, text, f"run={ids[0]}")])
    plan = finished_plan(root, ids[0], asked)
    if is_reward_model(plan):
        raise ConfigError([Problem("run", ids[0], "is a reward model and writes no answers")])
    return plan


def request_of(wanted: Synthesize, plan: Plan | None, judges: Mapping[str, Plan]) -> Request:
    """The request with everything that has to be trained first.

    plan:   of the run whose policy is sampled; None to sample the weights that `model` names.
    judges: judge's name -> plan of the reward model that it needs.
    Raises ConfigError if there is no judge for the run's own data.
    """
    source = wanted.data
    if wanted.run and source is None and not wanted.synthesis.questions:
        assert plan is not None
        source = plan.train.data
    world = source is not None and source.world is not None and source.world.is_whole
    if problems := list(labelling_problems(wanted.synthesis, wanted.judge, has_gold=world)):
        raise ConfigError(problems)
    if plan is not None:
        policy = policy_of_run(plan)
    else:
        assert wanted.model is not None
        policy = policy_of_model(wanted.model)
    return Request(
        wanted.synthesis,
        policy,
        None if wanted.synthesis.questions else source,
        judge_of(wanted.synthesis, wanted.judge, judges, source),
        Path(wanted.output_root),
        wanted.accelerator,
        bar_or_lines(wanted.progress),
        wanted.engine,
    )


def judge_of(
    how: Synthesis, judges: Mapping[str, Judge], plans: Mapping[str, Plan], source: Source | None
) -> tuple[str, Judge] | None:
    """(name, judge) that scores the samples, with its reward model trained; None if no judge is asked.

    In the lab it is the gold reward unless a judge is chosen.
    """
    if how.preferred == "data":
        return None
    chosen = labelling_judge(how, judges)
    if not chosen:
        assert source is not None
        assert source.world is not None
        return "gold", LabReward(world=source.world)
    ready = ready_judges(chosen, {name: plan for name, plan in plans.items() if name in chosen})
    return next(iter(ready.items()))
