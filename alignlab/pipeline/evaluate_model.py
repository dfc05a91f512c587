"""Evaluates a policy that was not trained here: a folder, a model of the hub, or an option of the group `model`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alignlab.config.plan import Plan
from alignlab.config.schemas import Evaluate
from alignlab.data.fingerprint import digest
from alignlab.data.layout import PLAIN
from alignlab.errors import ConfigError, Problem
from alignlab.evaluation.examples import Examples
from alignlab.evaluation.health import Limits, health
from alignlab.evaluation.judging import judged
from alignlab.evaluation.questions import Question, questions_of, read_questions
from alignlab.evaluation.settings import Evaluation
from alignlab.evaluation.suite import ModelSide, Suite, sampled
from alignlab.evaluation.summary import summarise
from alignlab.integrity import write_sealed
from alignlab.judges.base import JudgingCost
from alignlab.models.reference import ScoringOptions
from alignlab.pipeline.baselines import baseline
from alignlab.pipeline.benchmarks import benchmark_summary
from alignlab.pipeline.evaluate import Evaluated
from alignlab.pipeline.named_policy import named_policy
from alignlab.pipeline.policies import Policy, policy_of_model
from alignlab.pipeline.run import ready_judges
from alignlab.pipeline.stored_evaluation import folder_name, is_judged_by, stored_examples, write_outputs
from alignlab.progress import bars_wanted, progress_bar
from alignlab.reports.evaluation import SUMMARY, write_answers
from alignlab.training.evaluation_suite import REFERENCE_ROWS, REFERENCE_TOKENS, best_answers, sampling_of
from alignlab.training.setup import device_of


@dataclass(frozen=True)
class _Asked:
    """The policy and its reference (None if no KL is asked for), and the prompts."""

    policy: Policy
    reference: Policy | None
    settings: Evaluation
    questions: list[Question]


def evaluate_model(request: Evaluate, judges: Mapping[str, Plan]) -> Evaluated:
    """Evaluate the model of a request. Its rows and numbers are stored in `<output_root>/evaluations/<name>-<digest>`.

    judges: judge's name -> plan of the reward model that it needs.
    Raises ConfigError with all problems before anything starts.
    """
    asked, others = _checked(request)
    request = replace(request, judge=ready_judges(request.judge, judges))
    folder = _folder(request, asked)
    cost, summary = JudgingCost(), {}
    name = asked.policy.name
    if asked.questions:
        examples = stored_examples(folder)
        if examples is None:
            examples = _sampled(request, asked, others)
            examples.write(folder)
        for judge_name, judge in request.judge.items():
            if not is_judged_by(examples, judge_name, judge):
                examples, added = judged(examples, judge_name, judge, Path(request.output_root) / "judgements")
                examples.write(folder)
                cost += added
        summary = {**summarise(examples), "has_reference": asked.reference is not None}
        if asked.reference is not None:
            limits = Limits(max_kl=asked.settings.max_kl)
            summary["health"] = health(summary, proxy=asked.settings.proxy, limits=limits).as_dict()
        write_answers(folder, name, examples, asked.settings.shown)
        if asked.settings.questions:
            write_outputs(folder, name, examples, read_questions(asked.settings.questions))
    if request.benchmark:
        policies = {"policy": asked.policy, **({"reference": asked.reference} if asked.reference else {})}
        summary["benchmarks"] = benchmark_summary(
            request.benchmark,
            {side: policy.load for side, policy in policies.items()},
            {side: policy.content for side, policy in policies.items()},
            Path(request.output_root) / "benchmarks",
            request.accelerator,
        )
    write_sealed(folder / SUMMARY, {"model": name, **summary})
    return Evaluated(name, folder, summary, cost)


def _checked(request: Evaluate) -> tuple[_Asked, dict[str, Callable[[], ModelSide]]]:
    """What is asked, and loaders of the baselines that are models of their own. Raises ConfigError."""
    source, settings, problems = request.model, request.evaluation, list[Problem]()
    assert source is not None
    if source.parent:
        text = f"is trained first ({source.parent}); name the run whose policy you mean"
        problems.append(Problem("model.parent", source.parent, text, "run=<id of the run>"))
    reference = None
    if request.reference:
        try:
            reference, _ = named_policy(
                request.reference, request.output_root, trust_remote_code=request.trust_remote_code
            )
        except ConfigError as error:
            problems += [replace(problem, key="reference") for problem in error.problems]
    else:
        settings = replace(settings, baselines=[name for name in settings.baselines if name != "reference"])
    if settings.pairs:
        text = "needs the log-ratio of a run's policy to its reference, so it is for run=... only"
        problems.append(Problem("evaluation.pairs", settings.pairs, text))
    if settings.proxy and settings.proxy not in request.judge:
        names = ", ".join(request.judge) or "none"
        problems.append(Problem("evaluation.proxy", settings.proxy, f"is none of the judges ({names})"))
    others = {
        name: loader
        for name in settings.baselines
        if (loader := baseline(name, request.output_root, request, problems))
    }
    if request.judge and not settings.baselines:
        text = "compares answers, so it needs something to compare with: another model, or the data's answers"
        fix = "reference=<run or model>   or   evaluation.baselines=[<run or model>]"
        if not all(judge.rates for judge in request.judge.values()):
            problems.append(Problem("judge", ", ".join(request.judge), text, fix))
    if problems:
        raise ConfigError(problems)
    return _Asked(policy_of_model(source), reference, settings, _questions(request, settings)), others


def _questions(request: Evaluate, settings: Evaluation) -> list[Question]:
    if settings.questions:
        return questions_of(read_questions(settings.questions), settings.prompts)
    if request.data is None:
        return []
    return questions_of(best_answers(request.data, None), settings.prompts)


def _folder(request: Evaluate, asked: _Asked) -> Path:
    """The folder of an evaluation: everything that decides its rows decides its name."""
    data = "" if request.data is None or asked.settings.questions else request.data.fingerprint()
    reference = "" if asked.reference is None else asked.reference.content
    decided = [asked.policy.content, reference, folder_name(asked.settings, request.output_root, request.engine), data]
    short = re.sub(r"[^\w.-]+", "_", asked.policy.name.rstrip("/")).strip("_.")[-60:]
    name = f"{short}-{digest(part.encode() for part in decided)[:8]}"
    return Path(request.output_root) / "evaluations" / name


def _sampled(request: Evaluate, asked: _Asked, others: dict[str, Callable[[], ModelSide]]) -> Examples:
    device, bar = device_of(request.accelerator), progress_bar(bars_wanted(request.progress))
    use = "auto" if request.data is None else request.data.template
    policy = replace(asked.policy.load(), template_use=use)
    reference = None if asked.reference is None else replace(asked.reference.load(), template_use=use)
    for side in (policy, reference):
        if side is not None:
            side.model.to(device).eval()
    if reference is not None and reference.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        text = "has a different vocabulary from the model, so there is no KL between the two; compare them instead"
        fix = f"reference='' evaluation.baselines=[{request.reference}]"
        raise ConfigError([Problem("reference", request.reference, text, fix)])
    suite = Suite(
        asked.settings,
        asked.questions,
        sys.maxsize if request.data is None or asked.settings.questions else request.data.max_prompt_length,
        ScoringOptions(PLAIN, REFERENCE_ROWS, REFERENCE_TOKENS, device, bar),
        Path(request.output_root) / "samples",
        engine=request.engine,
    )
    facts: dict[str, Any] = {"weights": policy.weights, "sampling": sampling_of(asked.settings, request.engine)}
    if reference is not None:
        facts["reference"] = reference.weights
    return sampled(suite, policy, reference, others, facts)
