"""Runs evaluated: what they were made with is read from their records, models are loaded, rows and summaries kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from alignlab.checks import model_problems
from alignlab.config.from_record import recorded_plan
from alignlab.config.plan import Plan
from alignlab.config.schemas import Evaluate
from alignlab.data.fingerprint import digest, path_digest
from alignlab.data.layout import PLAIN
from alignlab.errors import AlignlabError, ConfigError, DamagedError, Problem
from alignlab.evaluation.benchmarks import mt_bench, xstest
from alignlab.evaluation.benchmarks.alpaca_eval import Prompt, write_model_outputs
from alignlab.evaluation.examples import FILE, Examples, same_prompts
from alignlab.evaluation.graded_pairs import PAIRS, accuracy_of, read_pairs, read_stored, store_pairs
from alignlab.evaluation.health import Limits, health
from alignlab.evaluation.judging import judged
from alignlab.evaluation.questions import Question, read_questions
from alignlab.evaluation.settings import Evaluation
from alignlab.evaluation.suite import ModelSide, sampled
from alignlab.evaluation.summary import flat, summarise
from alignlab.integrity import read_record, set_aside, write_sealed
from alignlab.judges.base import Judge, JudgingCost
from alignlab.models.adapters.base import Adapter
from alignlab.models.lineage import comes_with_code, weights_fingerprint
from alignlab.models.reference import ScoringOptions, weights_digest
from alignlab.models.sources.base import check_pretrained, load_pretrained
from alignlab.pipeline.pair_rewards import held_out_pairs, implied_rewards, rewards
from alignlab.pipeline.run import ready_judges
from alignlab.progress import bars_wanted, progress_bar
from alignlab.reports.evaluation import SUMMARY, write_answers
from alignlab.runs.directory import RunDir
from alignlab.runs.query import find, runs_of, sweeps_of
from alignlab.tracking.sinks.base import RunIdentity
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
    """What came of one run: where it lies, its numbers, and what judging took."""

    run: str
    folder: Path
    summary: dict[str, Any]
    bill: JudgingCost


def evaluate(request: Evaluate, judges: Mapping[str, Plan]) -> list[Evaluated]:
    """Evaluate a run, or all finished runs of a sweep. Raises ConfigError with all problems, before anything starts.

    judges: runs that judges are made by, by the judge's name.
    """
    root, ids = _runs(request)
    plans, problems = [], []
    for run_id in ids:
        try:
            plans.append(_evaluable(root, run_id, request))
            if _is_reward_model(plans[-1]) and request.judge:
                text = f"judges answers, and {run_id} is a reward model, which writes none; leave it out"
                problems.append(Problem("judge", ", ".join(request.judge), text))
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if request.evaluation.proxy and request.evaluation.proxy not in {*request.judge, "gold"}:
        there = ", ".join(request.judge) or "none"
        problems.append(Problem("evaluation.proxy", request.evaluation.proxy, f"is none of the judges ({there})"))
    others = {n: source for n in request.evaluation.baselines if (source := _other(n, root, request, problems))}
    if problems:
        raise ConfigError(problems)
    request = replace(request, judge=ready_judges(request.judge, judges))
    return [
        _evaluate_reward_model(plan, request) if _is_reward_model(plan) else _evaluate_run(plan, request, others)
        for plan in plans
    ]


def evaluate_at_end(plan: Plan) -> Path | None:
    """What `alignlab evaluate` would do with this run now, if that was asked for and the run is done."""
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


def peft_of(request: Evaluate) -> Adapter | None:
    """The adapter settings that all runs share; None if they differ, or if a record can't be read."""
    try:
        root, ids = _runs(request)
        found = [recorded_plan(root, run_id, trust_remote_code=request.trust_remote_code).train.peft for run_id in ids]
    except AlignlabError:  # `evaluate` reports the error
        return None
    return found[0] if all(peft == found[0] for peft in found) else None


def sweep_of(request: Evaluate) -> Path | None:
    """Folder of the sweep that is meant, by itself or by (the beginning of) its name; None where a run is meant.

    Raises ConfigError where several sweeps begin so, or a run does too.
    """
    folder = Path(request.run)
    if (folder / "sweep.json").is_file():
        return folder.resolve()
    if (folder / "run.json").is_file() or RunDir.of(request.output_root, request.run).record():
        return None
    names = [name for name, _ in sweeps_of(request.output_root)]
    found = [name for name in names if name == request.run] or [name for name in names if name.startswith(request.run)]
    if request.run not in found and found:
        found += [record["id"] for record in runs_of(request.output_root) if record["id"].startswith(request.run)]
    if len(found) > 1:
        raise ConfigError([Problem("run", request.run, f"stands for {', '.join(found[:5])}")])
    return Path(request.output_root) / "sweeps" / found[0] if found else None


def _runs(request: Evaluate) -> tuple[str, list[str]]:
    """(output root, ids of the runs that are meant)."""
    if sweep := sweep_of(request):
        return str(sweep.parents[1]), _done(sweep)
    folder = Path(request.run)
    if (folder / "run.json").is_file():
        return str(folder.resolve().parents[1]), [folder.resolve().name]
    return request.output_root, [find(runs_of(request.output_root), request.run)["id"]]


def _done(directory: Path) -> list[str]:
    """Runs of a sweep that are done, in the order of its points; the others are told."""
    root, sweep = directory.parents[1], directory.name
    points = read_record(directory / "sweep.json")["points"]
    ids = list(dict.fromkeys(point["run"] for point in points))
    left_out = [run_id for run_id in ids if RunDir.of(root, run_id).status() != "done"]
    if left_out:
        log.warning(
            "%s: %d of %d runs are not done and left out: %s", sweep, len(left_out), len(ids), ", ".join(left_out)
        )
    if len(left_out) == len(ids):
        raise ConfigError([Problem("run", sweep, "none of its runs is done")])
    return [run_id for run_id in ids if run_id not in left_out]


def _evaluable(root: str, run_id: str, request: Evaluate) -> Plan:
    run = RunDir.of(root, run_id)
    if damage := run.damage():
        raise ConfigError([Problem("run", run_id, f"{damage}; to resume the run, type the command that made it again")])
    if (status := run.status()) != "done":
        raise ConfigError(
            [Problem("run", run_id, f"is {status or 'not there'}: only runs that are done have a policy")]
        )
    return recorded_plan(root, run_id, trust_remote_code=request.trust_remote_code)


def _is_reward_model(plan: Plan) -> bool:
    return plan.train.objective.requires.data == "rankings"


def _other(name: str, root: str, request: Evaluate, problems: list[Problem]) -> Callable[[], ModelSide] | None:
    """How a baseline that is a model of its own is loaded; None for those that are not."""
    if name in ("reference", "chosen"):
        return None
    run = RunDir.of(root, name)
    if run.record():
        try:
            plan = _evaluable(root, name, request)
        except ConfigError as error:
            problems += [_of_a_baseline(problem) for problem in error.problems]
            return None
        if _is_reward_model(plan):
            problems.append(Problem("evaluation.baselines", name, "is a reward model and writes no answers"))
        else:
            plan.train.model.restore_base(str(run.policy))
            check = partial(check_pretrained, trust_remote_code=plan.train.model.allows_remote_code)
            problems += model_problems("evaluation.baselines", str(run.policy), check)
        return partial(_policy_of, plan)
    if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        text = "is no run below output_root, no folder and no hub name; else: reference, chosen"
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
    """A problem of a baseline's run, under the key that names the baseline. `trust_remote_code` keeps its own key."""
    return replace(problem, key="evaluation.baselines") if problem.key == "run" else problem


def _policy_of(plan: Plan) -> ModelSide:
    run = plan.run
    model, tokenizer = plan.train.model.load_from(str(run.policy))
    return ModelSide(model, tokenizer, weights_digest(model))


def _evaluate_run(plan: Plan, request: Evaluate, others: dict[str, Callable[[], ModelSide]]) -> Evaluated:
    run, world = plan.run, plan.train.data.world
    settings = cap_to_horizon(request.evaluation, world)
    folder = run.path / "evaluation" / _key(settings, plan.train.output_root)
    with run.locked():
        examples = _stored(folder)
        if examples is None:
            examples = _sample(plan, settings, request, others)
            examples.write(folder)
        bill = JudgingCost()
        own = None if settings.questions else world  # the planted reward knows the lab's own prompts only
        for name, judge in judges_of(request.judge, own).items():
            if not _judged_already(examples, name, judge):
                log.info("%s: judged by %s", run.id, name)
                examples, cost = judged(examples, name, judge, Path(plan.train.output_root) / "judgements")
                examples.write(folder)
                bill += cost
        summary = summarise(examples)
        if settings.pairs:
            summary["pairs"] = _implied(plan, settings.pairs, folder, request)
        metrics = run.record().get("summary", {})
        earlier = _earlier(run, examples)
        if settings.questions.endswith(".csv"):
            summary["refusals"] = _refusals(settings.questions, examples)
        summary["health"] = health(
            summary,
            proxy=settings.proxy,
            earlier=earlier,
            held_out=metrics,
            held_out_rows=run.record().get("data", {}).get("eval", {}).get("rows", 0),
            limits=Limits(max_kl=settings.max_kl),
        ).as_dict()
        write_sealed(folder / SUMMARY, {"run": run.id, **examples.facts, **summary})
        write_answers(folder, run.id, examples, settings.shown)
        if settings.questions:
            _write_outputs(folder, run.id, examples, read_questions(settings.questions))
        against = next(iter(settings.baselines), "")
        if not settings.questions:  # the run's own numbers are those of its own prompts
            found = {f"eval/{name}": value for name, value in flat(summary, against)}
            run.update(summary={**metrics, **found})
            _mirror(plan, run, found, examples, settings.shown)
    return Evaluated(run.id, folder, summary, bill)


def _write_outputs(folder: Path, model: str, examples: Examples, questions: Sequence[Question]) -> None:
    """First samples as other software reads them: MT-Bench's answers where there are turns, else AlpacaEval's."""
    first = [row for row, number in enumerate(examples["sample"]) if number == 0]
    if "turn" in examples:
        names = {question.id: question.name or question.id for question in questions}
        turns: dict[str, tuple[str, ...]] = {}
        for row in first:
            name = names[examples["prompt_id"][row]]
            turns[name] = (*turns.get(name, ()), examples["policy/answer"][row])
        mt_bench.write_answers(folder / "model_answer.jsonl", turns, model)
        return
    prompts = [Prompt(examples["prompt"][row]) for row in first]
    outputs = [examples["policy/answer"][row] for row in first]
    write_model_outputs(folder / "model_outputs.json", prompts, outputs, model)


def _refusals(file: str, examples: Examples) -> dict[str, dict[str, Any]]:
    """Of each side: shares of XSTest's safe and unsafe prompts that it refuses, by its first answer to each."""
    known = zip(read_questions(file), xstest.read_prompts(file), strict=True)
    asked = {question.id: prompt for question, prompt in known}
    first = [row for row, number in enumerate(examples["sample"]) if number == 0]
    prompts = [asked[examples["prompt_id"][row]] for row in first]
    return {
        side: asdict(xstest.refusals(prompts, [xstest.is_refusal(examples[f"{side}/answer"][row]) for row in first]))
        for side in examples.sides
    }


def _mirror(plan: Plan, run: RunDir, found: Mapping[str, float], examples: Examples, shown: int) -> None:
    """Send numbers and the first answers to where the run's own metrics went."""
    record, step = run.record(), plan.train.trainer.max_steps
    kind = run.id.rpartition("-")[0]
    sink = plan.train.tracking.open(RunIdentity(run.id, run.path, record.get("sweep"), kind, record.get("config", {})))
    columns = ["prompt", *(f"{side}/answer" for side in examples.sides)]
    columns += [f"policy/score/{judge}" for judge in examples.scored_by]
    rows = [{name: examples[name][row] for name in columns} for row in range(min(shown, len(examples)))]
    sink.log({"train/global_step": step, **found})
    sink.table("answers", [{"train/global_step": step, **row} for row in rows])
    sink.finish(found, failed=False)


def _earlier(run: RunDir, examples: Examples) -> list[dict[str, Any]]:
    """What the same prompts gave while the run trained, where it was evaluated then."""
    found = (_stored(folder, "is left out") for folder in sorted((run.path / "evaluation").glob("step-*")))
    snapshots = [snapshot for snapshot in found if snapshot is not None]
    alike = ("sampling", *(f"judge/{name}" for name in examples.scored_by))
    return [
        summarise(snapshot)
        for snapshot in snapshots
        if same_prompts(snapshot, examples) and all(snapshot.facts.get(f) == examples.facts.get(f) for f in alike)
    ]


def _evaluate_reward_model(plan: Plan, request: Evaluate) -> Evaluated:
    """Accuracy on pairs, of a file or its own held-out ones."""
    run, file = plan.run, request.evaluation.pairs
    folder = run.path / "evaluation" / (f"pairs-{path_digest(file)[:8]}" if file else "pairs")
    with run.locked():
        summary = _stored_pairs(folder)
        if summary is None:
            pairs = read_pairs(file) if file else held_out_pairs(plan)
            summary = store_pairs(folder, pairs, rewards(plan, pairs))
        summary = {"pairs": summary}
        write_sealed(folder / SUMMARY, {"run": run.id, **summary})
    return Evaluated(run.id, folder, summary, JudgingCost())


def _implied(plan: Plan, file: str, folder: Path, request: Evaluate) -> dict[str, Any]:
    """Accuracy of the rewards that a policy implies."""
    if (found := _stored_pairs(folder)) is not None:
        return found
    start, policy, device = load_initial_policy(plan), _policy_of(plan), device_of(request.accelerator)
    reference = ModelSide(start.model, start.tokenizer, start.weights)
    how, pairs = (
        ScoringOptions(PLAIN, REFERENCE_ROWS, REFERENCE_TOKENS, device, progress_bar(bars_wanted(request.progress))),
        read_pairs(file),
    )
    return store_pairs(folder, pairs, implied_rewards(policy, reference, pairs, how))


def _stored_pairs(folder: Path) -> dict[str, Any] | None:
    """The accuracy on pairs that were scored before; None if there are none, or if they are damaged, with a warning."""
    if not (folder / PAIRS).exists():
        return None
    try:
        return accuracy_of(read_stored(folder))
    except DamagedError as error:
        log.warning("%s", set_aside(error, "the pairs are scored again"))
        return None


def _key(settings: Evaluation, root: str) -> str:
    """Name of an evaluation: everything that decides its rows before they are judged."""
    files = [path_digest(file) if file else "" for file in (settings.questions, settings.pairs)]
    folders = [RunDir.of(root, name).policy for name in settings.baselines] + [Path(n) for n in settings.baselines]
    files += [weights_fingerprint(str(folder)) for folder in folders if folder.is_dir()]
    decided = (settings.prompts, files, settings.samples, settings.baselines)
    sampling = (settings.max_new_tokens, settings.temperature, settings.seed)
    return digest([repr((decided, sampling)).encode()])[:8]


def _stored(folder: Path, otherwise: str = "its answers are drawn again") -> Examples | None:
    """Stored examples of an earlier evaluation; None if there are none, or if they are damaged, with a warning."""
    if not (folder / FILE).exists():
        return None
    try:
        return Examples.read(folder)
    except DamagedError as error:
        log.warning("%s", set_aside(error, otherwise))
        return None


def _judged_already(examples: Examples, name: str, judge: Judge) -> bool:
    """By this very judge, and no comparison left open."""
    columns = [examples[column] for b in examples.baselines for column in examples.columns if column in _of(b, name)]
    return examples.facts.get(f"judge/{name}") == judge.fingerprint() and all(None not in c for c in columns)


def _of(baseline: str, judge: str) -> tuple[str, str]:
    return f"{baseline}/first/{judge}", f"{baseline}/second/{judge}"


def _sample(
    plan: Plan, settings: Evaluation, request: Evaluate, others: dict[str, Callable[[], ModelSide]]
) -> Examples:
    start, policy = load_initial_policy(plan), _policy_of(plan)
    reference = ModelSide(start.model, start.tokenizer, start.weights)
    device = device_of(request.accelerator)
    for side in (policy, reference):
        side.model.to(device)
    bar = progress_bar(bars_wanted(request.progress))
    suite = suite_of(plan, start, settings, device, bar, Path(plan.train.output_root) / "samples")
    log.info("%s: %d prompts, %d answers to each", plan.id, len(suite.questions), settings.samples)
    facts = {"weights": policy.weights, "reference": reference.weights, "sampling": sampling_of(settings)}
    return sampled(suite, policy, reference, others, facts)
