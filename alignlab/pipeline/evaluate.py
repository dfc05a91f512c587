"""Evaluates finished runs: samples answers, asks judges, and stores rows and a summary in each run's directory."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from alignlab.config.plan import Plan
from alignlab.config.schemas import Evaluate, labelling_judge
from alignlab.data.fingerprint import path_digest
from alignlab.data.layout import PLAIN
from alignlab.data.own_files import OwnFiles
from alignlab.data.sources.base import Source
from alignlab.errors import ConfigError, DamagedError, DataError, Problem
from alignlab.evaluation.benchmarks import xstest
from alignlab.evaluation.examples import Examples
from alignlab.evaluation.graded_pairs import read_graded, store_graded
from alignlab.evaluation.health import Limits, health
from alignlab.evaluation.judging import judged
from alignlab.evaluation.questions import read_questions
from alignlab.evaluation.settings import Evaluation
from alignlab.evaluation.suite import ModelSide, sampled
from alignlab.evaluation.summary import flat, summarise
from alignlab.integrity import write_sealed
from alignlab.judges.base import JudgingCost
from alignlab.models.lineage import weights_fingerprint
from alignlab.models.reference import ScoringOptions
from alignlab.pipeline.baselines import baseline, policy_of
from alignlab.pipeline.benchmarks import benchmark_summary
from alignlab.pipeline.pair_rewards import held_out_pairs, implied_rewards, rewards
from alignlab.pipeline.requested_runs import finished_plan, is_reward_model, requested_runs
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
from alignlab.runs.sweep_record import read_sweep_record
from alignlab.spelling import counted
from alignlab.training.attempt import reason_of
from alignlab.training.evaluation_suite import (
    LEAST_PROMPTS,
    REFERENCE_ROWS,
    REFERENCE_TOKENS,
    cap_to_horizon,
    judges_of,
    sampling_of,
    suite_of,
    time_left,
)
from alignlab.training.setup import device_of, load_initial_policy

log = logging.getLogger(__name__)

_MANY = 2**12  # the largest limited number of prompts, if all prompts are wanted


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


def evaluate(request: Evaluate, judges: Mapping[str, Plan], seconds: float | None = None) -> list[Evaluated]:
    """Evaluate a run, or all finished runs of a sweep.

    judges:  judge's name -> plan of the reward model that it needs.
    seconds: time limit for the sampling of a run, which reduces the prompts to LEAST_PROMPTS at the least; None: no
             limit.
    Raises ConfigError with all problems before anything starts.
    """
    root, ids = requested_runs(request)
    plans, problems = [], []
    for run_id in ids:
        try:
            plans.append(finished_plan(root, run_id, request))
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
        _evaluate_reward_model(plan, request)
        if is_reward_model(plan)
        else _evaluate_run(plan, request, others, seconds)
        for plan in plans
    ]


def evaluate_at_end(plan: Plan) -> Path | None:
    """Evaluate a finished run, if its config asks for it or the default does (`Plan.is_evaluated_at_end`).

    Returns the folder of the evaluation; None if there is none. A failure is recorded in run.json. If the config asks
    for the evaluation, the error is raised again; otherwise it is logged.
    """
    run, asked_for = plan.run, plan.train.evaluation.at_end
    record = run.record()
    if not plan.is_evaluated_at_end or run.status() != "done":
        return None
    if record.get("evaluated") and (run.lacks_policy or not asked_for):
        return Path(record["evaluated"]) if (Path(record["evaluated"]) / SUMMARY).is_file() else None
    summary = record.get("summary", {})
    left = time_left(summary.get("time/train_seconds", 0.0), summary.get("time/sampling_seconds", 0.0))
    seconds = None if asked_for else left
    try:
        (found,) = evaluate(_request(plan), plan.judges, seconds)
    except Exception as error:
        run.update(evaluation_failed=reason_of(error))
        if asked_for:
            raise
        log.warning("%s: is done, but could not be evaluated: %s\n  type: evaluation=off", run.id, reason_of(error))
        return None
    run.update(evaluated=str(found.folder), evaluated_prompts=found.summary.get("prompts"), evaluation_failed=None)
    return found.folder


def _request(plan: Plan) -> Evaluate:
    """The request for the evaluation at the end of a run.

    By default no person is asked, and a judge that labels the rows of `rounds` counts as the proxy.
    """
    train = plan.train
    judges, settings = train.judge, train.evaluation
    if not settings.at_end:
        judges = {name: judge for name, judge in judges.items() if not judge.asks_a_person}
        for name in train.judge.keys() - judges.keys():
            log.info("%s: the judge %s asks a person; evaluation.at_end=true asks it", plan.id, name)
        if train.rounds and not settings.proxy:
            settings = replace(settings, proxy=next(iter(labelling_judge(train.synthesis, judges)), ""))
    return Evaluate(
        run=str(plan.run.path),
        evaluation=settings,
        judge=judges,
        engine=train.engine,
        output_root=train.output_root,
        accelerator=train.trainer.accelerator,
        progress=train.trainer.progress,
        trust_remote_code=train.model.allows_remote_code,
    )


def _evaluate_run(
    plan: Plan, request: Evaluate, others: dict[str, Callable[[], ModelSide]], seconds: float | None
) -> Evaluated:
    run, world = plan.run, plan.train.data.world
    settings = cap_to_horizon(request.evaluation, world)
    with run.locked():
        folder, examples = _stored_or_sampled(plan, settings, request, others, seconds)
        cost = JudgingCost()
        lab = None if settings.questions else world  # the lab's gold reward only scores the lab's own prompts
        for name, judge in judges_of(request.judge, lab).items():
            if not is_judged_by(examples, name, judge):
                log.info("%s: asking the judge %s", run.id, name)
                examples, added = judged(examples, name, judge, Path(plan.train.output_root) / "judgements")
                examples.write(folder)
                cost += added
        summary = _summary(plan, run, settings, examples, folder, request)
        asked = _name_of_questions(run, settings.questions) if settings.questions else ""
        if request.benchmark:
            summary["benchmarks"] = _benchmarks(plan, request)
        about = {"run": run.id, **({"questions": asked} if asked else {}), **examples.facts}
        write_sealed(folder / SUMMARY, {**about, **summary})
        write_answers(folder, run.id, examples, settings.shown)
        if settings.questions:
            write_outputs(folder, run.id, examples, read_questions(settings.questions))
        under = f"questions/{asked}" if asked else "eval"
        metrics = {f"{under}/{name}": value for name, value in flat(summary, next(iter(settings.baselines), ""))}
        run.update(summary={**run.record().get("summary", {}), **metrics})
        mirror(plan, run, metrics, folder, examples)
    return Evaluated(run.id, folder, summary, cost)


def _benchmarks(plan: Plan, request: Evaluate) -> dict[str, Any]:
    """Numbers of the benchmarks, of the policy and of the policy before its training."""

    def start() -> ModelSide:
        found = load_initial_policy(plan)
        return ModelSide(found.model, found.tokenizer, found.weights, plan.train.data.template)

    weights = plan.run.record().get("model", {}).get("reference_weights") or plan.id
    contents = {"policy": weights_fingerprint(str(plan.run.policy)), "reference": weights}
    kept_in = Path(plan.train.output_root) / "benchmarks"
    sides = {"policy": lambda: policy_of(plan), "reference": start}
    return benchmark_summary(request.benchmark, sides, contents, kept_in, request.accelerator)


def _name_of_questions(run: RunDir, file: str) -> str:
    """The name of a file of prompts. Its numbers are in the record of a run as `questions/<name>/...`.

    It is the name of the file without its ending. If another file of this name was asked before, a part of its digest
    follows.
    """
    digest, known = path_digest(file), run.record().get("questions", {})
    name = re.sub(r"[^\w.-]+", "_", Path(file).stem)
    if known.get(name, digest) != digest:
        name += f"-{digest[:4]}"
    run.update(questions={**known, name: digest})
    return name


def _stored_or_sampled(
    plan: Plan,
    settings: Evaluation,
    request: Evaluate,
    others: dict[str, Callable[[], ModelSide]],
    seconds: float | None,
) -> tuple[Path, Examples]:
    """(folder of the evaluation, its examples), from an earlier evaluation or sampled now.

    seconds: time limit for the sampling; None: no limit.
    """
    place, root = plan.run.path / "evaluation", plan.train.output_root
    limited = seconds is not None and not settings.questions
    sizes = prompt_counts(settings.prompts) if limited else [settings.prompts]
    for size in reversed(sizes):
        folder = place / folder_name(replace(settings, prompts=size), root, request.engine)
        if (examples := stored_examples(folder)) is not None:
            return folder, examples
    if limited and (chosen := _count_of_the_sweep(plan)):
        sizes, seconds = counts_up_to(sizes, chosen), None
    size, examples = _sample(plan, settings, request, others, sizes, seconds)
    folder = place / folder_name(replace(settings, prompts=size), root, request.engine)
    examples.write(folder)
    return folder, examples


def prompt_counts(prompts: int) -> list[int]:
    """The numbers of prompts that an evaluation of limited duration chooses from: 16, 32, 64, ... up to `prompts`.

    prompts: the largest number; 0 means all, which are then the last choice.
    """
    counts: list[int] = []
    while (next_count := LEAST_PROMPTS * 2 ** len(counts)) < (prompts or _MANY):
        counts.append(next_count)
    return [*counts, prompts]


def counts_up_to(counts: Sequence[int], evaluated: int) -> list[int]:
    """The first counts, up to the one with which `evaluated` prompts were answered.

    That is the first that is not smaller, because there may be fewer held-out prompts than an evaluation asks for.
    """
    return list(counts[: next((i + 1 for i, n in enumerate(counts) if n == 0 or n >= evaluated), len(counts))])


def _count_of_the_sweep(plan: Plan) -> int | None:
    """The number of prompts of another evaluated point of the run's sweep, so that all points have the same number."""
    root = Path(plan.train.output_root)
    try:
        points = read_sweep_record(root / "sweeps" / str(plan.run.record().get("sweep")))["points"]
        ids = [point["run"] for point in points if point["run"] != plan.id]
    except (OSError, DamagedError):  # the run is in no sweep
        return None
    counts = (RunDir.of(root, run_id).record().get("evaluated_prompts") for run_id in ids)
    return next((count for count in counts if count), None)


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
            graded = read_graded(file) if file else held_out_pairs(plan)
            summary = store_graded(folder, graded, rewards(plan, graded))
        summary = {"pairs": summary}
        write_sealed(folder / SUMMARY, {"run": run.id, **summary})
    return Evaluated(run.id, folder, summary, JudgingCost())


def _implied_accuracy(plan: Plan, file: str, folder: Path, request: Evaluate) -> dict[str, Any]:
    """Accuracy on graded answers of the implied reward: the log-ratio of policy and reference."""
    if (found := stored_pairs(folder)) is not None:
        return found
    start, policy, device = load_initial_policy(plan), policy_of(plan), device_of(request.accelerator)
    reference = ModelSide(start.model, start.tokenizer, start.weights, plan.train.data.template)
    bar, graded = progress_bar(bars_wanted(request.progress)), read_graded(file)
    options = ScoringOptions(PLAIN, REFERENCE_ROWS, REFERENCE_TOKENS, device, bar)
    return store_graded(folder, graded, implied_rewards(policy, reference, graded, options))


def _more_held_out(data: Source) -> str:
    """How a new run holds out more rows; empty if that is not a matter of one setting."""
    if isinstance(data, OwnFiles) and not (data.eval_path or data.eval_split):
        return "; in a new run, data.eval_fraction=0.5 holds out half of the rows"
    return "; in a new run, a larger data.eval_limit takes more" if data.eval_limit == 1 else ""


def _sample(
    plan: Plan,
    settings: Evaluation,
    request: Evaluate,
    others: dict[str, Callable[[], ModelSide]],
    sizes: Sequence[int],
    seconds: float | None,
) -> tuple[int, Examples]:
    """(the chosen number of prompts, answers to them with log-probabilities).

    sizes:   numbers of prompts to choose from, growing; 0 means all.
    seconds: the largest size is chosen that is expected to be done within this time; None: the last size.
    Raises DataError if there are fewer than two prompts and the duration is limited: such a KL would have no interval.
    """
    start, policy = load_initial_policy(plan), policy_of(plan)
    reference = ModelSide(start.model, start.tokenizer, start.weights, plan.train.data.template)
    device = device_of(request.accelerator)
    for side in (policy, reference):
        side.model.to(device)
    bar = progress_bar(bars_wanted(request.progress))
    suite = suite_of(plan, start, settings, request.engine, device, bar, Path(plan.train.output_root) / "samples")
    if len(sizes) > 1 and len(suite.questions) < 2:
        text = f"{counted(len(suite.questions), 'held-out prompt')} is too few for a KL with an interval"
        raise DataError(text + _more_held_out(plan.train.data))
    sampling = sampling_of(settings, request.engine)
    facts = {"weights": policy.weights, "reference": reference.weights, "sampling": sampling}
    parts: list[Examples] = []
    began, done, size = time.monotonic(), 0, sizes[0]
    for size in sizes:
        stop = min(size or len(suite.questions), len(suite.questions))
        spent = time.monotonic() - began
        if parts and (stop <= done or (seconds is not None and spent * stop / done > seconds)):
            size = sizes[len(parts) - 1]
            break
        log.info("%s: prompts %d to %d, %s per prompt", plan.id, done + 1, stop, counted(settings.samples, "answer"))
        part = replace(suite, questions=suite.questions[done:stop])
        parts.append(sampled(part, policy, reference, others, facts))
        done = stop
    return size, reduce(Examples.followed_by, parts)
