"""The models that a run is compared with: other runs, folders and models of the hub."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from alignlab.checks import model_problems
from alignlab.config.plan import Plan
from alignlab.config.schemas import Evaluate
from alignlab.errors import ConfigError, Problem
from alignlab.evaluation.suite import ModelSide
from alignlab.models.lineage import comes_with_code
from alignlab.models.reference import weights_digest
from alignlab.models.sources.base import check_pretrained, load_pretrained
from alignlab.pipeline.requested_runs import finished_plan, is_reward_model
from alignlab.runs.directory import RunDir

log = logging.getLogger(__name__)


def baseline(name: str, root: str, request: Evaluate, problems: list[Problem]) -> Callable[[], ModelSide] | None:
    """A function that loads a baseline. None for `reference` and `chosen`, because they are not models of their own.

    name:     id of a run, folder, hub name, `reference` or `chosen`.
    problems: a problem with the baseline is appended to this list.
    """
    if name in ("reference", "chosen"):
        return None
    run = RunDir.of(root, name)
    if run.record():
        try:
            plan = finished_plan(root, name, request)
        except ConfigError as error:
            problems += [_of_a_baseline(problem) for problem in error.problems]
            return None
        if is_reward_model(plan):
            problems.append(Problem("evaluation.baselines", name, "is a reward model and writes no answers"))
        else:
            plan.train.model.restore_base(str(run.policy))
            check = partial(check_pretrained, trust_remote_code=plan.train.model.allows_remote_code)
            problems += model_problems("evaluation.baselines", str(run.policy), check)
        return partial(policy_of, plan)
    if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        text = "is neither a run below output_root, a folder nor a hub name; other baselines: reference, chosen"
        problems.append(Problem("evaluation.baselines", name, text, "evaluation.baselines=[reference,chosen]"))
        return None
    if comes_with_code(name):
        check = partial(check_pretrained, trust_remote_code=request.trust_remote_code)
        problems += model_problems("evaluation.baselines", name, check)

    def load() -> ModelSide:
        model, tokenizer = load_pretrained(name, dtype="float32", trust_remote_code=request.trust_remote_code)
        return ModelSide(model, tokenizer, weights_digest(model))

    return load


def _of_a_baseline(problem: Problem) -> Problem:
    """The problem of a baseline's run, with the key that names the baseline. `trust_remote_code` keeps its own key."""
    return replace(problem, key="evaluation.baselines") if problem.key == "run" else problem


def policy_of(plan: Plan) -> ModelSide:
    """The saved policy of a finished run."""
    run = plan.run
    model, tokenizer = plan.train.model.load_from(str(run.policy))
    return ModelSide(model, tokenizer, weights_digest(model), plan.train.data.template)
