"""The policy that a user names: a finished run, or a model that was not trained here."""

from __future__ import annotations

import os
from pathlib import Path

from alignlab.config.named_model import is_place, named_model
from alignlab.config.plan import Plan
from alignlab.config.schemas import Evaluate
from alignlab.errors import ConfigError, Problem
from alignlab.evaluation.suite import ModelSide
from alignlab.pipeline.policies import Policy, finished_policy, policy_of_model
from alignlab.pipeline.requested_runs import finished_plan, is_reward_model, requested_runs
from alignlab.rollout.engines.huggingface import HuggingFace
from alignlab.runs.query import refuse_no_name, runs_of
from alignlab.training.setup import load_initial_policy


def run_named(name: str, root: str, *, trust_remote_code: bool = False, with_policy: bool = True) -> Plan | None:
    """The plan of the finished run that a name means; None if it means no run.

    name:        an id, its beginning, or the folder of a run.
    with_policy: whether the run must have a policy that writes answers. A reward model has none.
    Raises ConfigError if it means several runs, or a run without a policy that writes answers, or if it is no name.
    """
    if not os.path.isdir(name):
        refuse_no_name(name)
    records = [record["id"] for record in runs_of(root)]
    is_run = (Path(name) / "run.json").is_file() or any(
        run.startswith(name) or run.rpartition("-")[2].startswith(name) for run in records
    )
    if not is_run or (is_place(name) and not (Path(name) / "run.json").is_file()):
        return None
    asked = Evaluate(run=name, engine=HuggingFace(), output_root=root, trust_remote_code=trust_remote_code)
    found, ids = requested_runs(asked)
    if len(ids) > 1:
        text = f"is a sweep with several runs; name one of them: {', '.join(ids[:5])}"
        raise ConfigError([Problem("run", name, text)])
    plan = finished_plan(found, ids[0], asked)
    if with_policy and is_reward_model(plan):
        raise ConfigError([Problem("run", ids[0], "is a reward model and writes no answers")])
    return plan


def named_policy(name: str, root: str, *, trust_remote_code: bool = False) -> tuple[Policy, Plan | None]:
    """(policy, plan of its run; None for a model that was not trained here). Raises ConfigError if there is none."""
    plan = run_named(name, root, trust_remote_code=trust_remote_code)
    if plan is not None:
        return finished_policy(plan), plan
    return policy_of_model(named_model(name, trust_remote_code=trust_remote_code)), None


def start_of(plan: Plan) -> ModelSide:
    """The policy of a run before its training, which is its reference."""
    start = load_initial_policy(plan)
    return ModelSide(start.model, start.tokenizer, start.weights, plan.train.data.template)
