"""Evaluates finished runs: samples answers, asks judges, and stores rows and a summary in each run's directory."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from alignlab.config.plan import Plan
from alignlab.config.schemas import Evaluate
from alignlab.data.fingerprint import path_digest
from alignlab.data.layout import PLAIN
from alignlab.errors import ConfigError, Problem
from alignlab.evaluation.benchmarks import xstest
from alignlab.evaluation.examples import Examples
from alignlab.evaluation.graded_pairs import read_pairs, store_pairs
from alignlab.evaluation.health import Limits, health
from alignlab.evaluation.judging import judged
from alignlab.evaluation.questions import read_questions
from alignlab.evaluation.settings import Evaluation
from alignlab.evaluation.suite import ModelSide, sampled
from alignlab.evaluation.summary import flat, summarise
from alignlab.integrity import write_sealed
from alignlab.judges.base import JudgingCost
from alignlab.models.reference import ScoringOptions
from alignlab.pipeline.baselines import baseline, policy_of
from alignlab.pipeline.pair_rewards import held_out_pairs, implied_rewards, rewards
from alignlab.pipeline.requested_runs import evaluable, is_reward_model, requested_runs
from alignlab.pipeline.run import ready_judges
from alignlab.pipeline.stored_evaluation import (
    earlier_evaluations,
    folder_name,
    is_judged_by,
    mirror,
    stored_examples,
    stored_pairs,
    write_outputs,
)
from alignlab.progress import bars_wanted, progress_bar
from alignlab.reports.evaluation import SUMMARY, write_answers
from alignlab.runs.directory import RunDir
from alignlab.spelling import counted
from alignlab.training.attempt import reason_of
from alignlab.training.evaluation_suite import (
    REFERENCE_ROWS,
    REFERENCE_TOKENS,
    cap_to_horizon,
    judges_of,
    sampling_of,
    suite_of,
)
from alignlab.training.setup import device_of, load_initial_policy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """The evaluation of one run.

    folder:  where its rows and summary are stored.
    summary: its numbers, as in `summary.json`.
    cost:    of the judges that were asked this time. Stored verdicts cost nothing.
    """

    run: str
    folder: Path
    summary: dict[str, Any]
    cost: JudgingCost


def evaluate(request: Evaluate, judges: Mapping[str, Plan]) -> list[Evaluated]:
    """Evaluate a run, or all finished runs of a sweep.

    judges: judge's name -> plan of the reward model that it needs.
    Raises ConfigError with all problems before anything starts.
    """
    root, ids = requested_runs(request)
    plans, problems = [], []
    for run_id in ids:
        try:
            plans.append(evaluable(root, run_id, request))
            if is_reward_model(plans[-1]) and request.judge:
                text = f"judges answers, but {run_id} is a reward model, which writes no answers; leave out the judge"
                problems.append(Problem("judge", ", ".join(request.judge), text))
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if request.evaluation.proxy and request.evaluation.proxy not in {*request.judge, "gold"}:
        names = ", ".join(request.judge) or "none"
        problems.append(Problem("evaluation.proxy", request.evaluation.proxy, f"is none of the judges ({names})"))
    others = {n: source for n in request.evaluation.baselines if (source := baseline(n, root, request, problems))}
    if problems:
        raise ConfigError(problems)
    request = replace(request, judge=ready_judges(request.judge, judges))
    return [
        _evaluate_reward_model(plan, request) if is_reward_model(plan) else _evaluate_run(plan, request, others)
        for plan in plans
    ]


def evaluate_at_end(plan: Plan) -> Path | None:
    """Evaluate a finished run if its config has `evaluation.at_end`; otherwise do nothing.

    Returns the folder of the evaluation, or None. A failure is recorded in run.json and raised again.
    """
    run, train = plan.run, plan.train
    if not train.evaluation.at_end or run.status() != "done":
        return None
    try:
        (found,) = evaluate(
            Evaluate(
                run=str(run.path),
                evaluation=train.evaluation,
                judge=train.judge,
                output_root=train.output_root,
                accelerator=train.trainer.accelerator,
                progress=train.trainer.progress,
                trust_remote_code=train.model.allows_remote_code,
            ),
            plan.judges,
        )
    except Exception as error:
        run.update(evaluation_failed=reason_of(error))
        raise
    run.update(evaluated=str(found.folder), evaluation_failed=None)
    return found.folder


def _evaluate_run(plan: Plan, request: Evaluate, others: dict[str, Callable[[], ModelSide]]) -> Evaluated:
    run, world = plan.run, plan.train.data.world
    settings = cap_to_horizon(request.evaluation, world)
    folder = run.path / "evaluation" / folder_name(settings, plan.train.output_root)
    with run.locked():
        examples = stored_examples(folder)
        if examples is None:
            examples = _sample(plan, settings, request, others)
            examples.write(folder)
        cost = JudgingCost()
        lab = None if settings.questions else world  # the lab's gold reward only scores the lab's own prompts
        for name, judge in judges_of(request.judge, lab).items():
            if not is_judged_by(examples, name, judge):
                log.info("%s: asking the judge %s", run.id, name)
                examples, added = judged(examples, name, judge, Path(plan.train.output_root) / "judgements")
                examples.write(folder)
                cost += added
        summary = _summary(plan, run, settings, examples, folder, request)
        write_sealed(folder / SUMMARY, {"run": run.id, **examples.facts, **summary})
        write_answers(folder, run.id, examples, settings.shown)
        if settings.questions:
            write_outputs(folder, run.id, examples, read_questions(settings.questions))
        under = _name_of_questions(run, settings.questions) if settings.questions else "eval"
        metrics = {f"{under}/{name}": value for name, value in flat(summary, next(iter(settings.baselines), ""))}
        run.update(summary={**run.record().get("summary", {}), **metrics})
        mirror(plan, run, metrics, examples, settings.shown)
    return Evaluated(run.id, folder, summary, cost)


def _name_of_questions(run: RunDir, file: str) -> str:
    """`questions/<name>`, under which the numbers of a file of prompts are in the record of a run.

    The name is that of the file. If another file of this name was asked before, a part of its digest follows.
    """
    digest, known = path_digest(file), run.record().get("questions", {})
    name = re.sub(r"[^\w.-]+", "_", Path(file).stem)
    if known.get(name, digest) != digest:
        name += f"-{digest[:4]}"
    run.update(questions={**known, name: digest})
    return f"questions/{name}"


def _summary(
    plan: Plan, run: RunDir, settings: Evaluation, examples: Examples, folder: Path, request: Evaluate
) -> dict[str, Any]:
    """Means with intervals, accuracy on pairs, refusals, and the verdict on the health of the policy."""
    summary = summarise(examples)
    if settings.pairs:
        summary["pairs"] = _implied_accuracy(plan, settings.pairs, folder, request)
    if settings.questions.endswith(".csv"):
        summary["refusals"] = _refusals(settings.questions, examples)
    record = run.record()
    summary["health"] = health(
        summary,
        proxy=settings.proxy,
        earlier=earlier_evaluations(run, examples),
        held_out=record.get("summary", {}),
        held_out_rows=record.get("data", {}).get("eval", {}).get("rows", 0),
        limits=Limits(max_kl=settings.max_kl),
    ).as_dict()
    return summary


def _refusals(file: str, examples: Examples) -> dict[str, dict[str, Any]]:
    """Shares of XSTest's safe and unsafe prompts that each side refuses, by its first answer to each prompt."""
    known = zip(read_questions(file), xstest.read_prompts(file), strict=True)
    prompt_of = {question.id: prompt for question, prompt in known}
    first = [row for row, number in enumerate(examples["sample"]) if number == 0]
    prompts = [prompt_of[examples["prompt_id"][row]] for row in first]
    return {
        side: asdict(xstest.refusals(prompts, [xstest.is_refusal(examples[f"{side}/answer"][row]) for row in first]))
        for side in examples.sides
    }


def _evaluate_reward_model(plan: Plan, request: Evaluate) -> Evaluated:
    """Evaluate a reward model: its accuracy on the pairs of a file, or on its own held-out pairs."""
    run, file = plan.run, request.evaluation.pairs
    folder = run.path / "evaluation" / (f"pairs-{path_digest(file)[:8]}" if file else "pairs")
    with run.locked():
        summary = stored_pairs(folder)
        if summary is None:
            pairs = read_pairs(file) if file else held_out_pairs(plan)
            summary = store_pairs(folder, pairs, rewards(plan, pairs))
        summary = {"pairs": summary}
        write_sealed(folder / SUMMARY, {"run": run.id, **summary})
    return Evaluated(run.id, folder, summary, JudgingCost())


def _implied_accuracy(plan: Plan, file: str, folder: Path, request: Evaluate) -> dict[str, Any]:
    """Accuracy on pairs of the implied reward: the log-ratio of policy and reference."""
    if (found := stored_pairs(folder)) is not None:
        return found
    start, policy, device = load_initial_policy(plan), policy_of(plan), device_of(request.accelerator)
    reference = ModelSide(start.model, start.tokenizer, start.weights, plan.train.data.template)
    bar, pairs = progress_bar(bars_wanted(request.progress)), read_pairs(file)
    options = ScoringOptions(PLAIN, REFERENCE_ROWS, REFERENCE_TOKENS, device, bar)
    return store_pairs(folder, pairs, implied_rewards(policy, reference, pairs, options))


def _sample(
    plan: Plan, settings: Evaluation, request: Evaluate, others: dict[str, Callable[[], ModelSide]]
) -> Examples:
    start, policy = load_initial_policy(plan), policy_of(plan)
    reference = ModelSide(start.model, start.tokenizer, start.weights, plan.train.data.template)
    device = device_of(request.accelerator)
    for side in (policy, reference):
        side.model.to(device)
    bar = progress_bar(bars_wanted(request.progress))
    suite = suite_of(plan, start, settings, device, bar, Path(plan.train.output_root) / "samples")
    prompts, answers = counted(len(suite.questions), "prompt"), counted(settings.samples, "answer")
    log.info("%s: %s, %s per prompt", plan.id, prompts, answers)
    facts = {"weights": policy.weights, "reference": reference.weights, "sampling": sampling_of(settings)}
    return sampled(suite, policy, reference, others, facts)
