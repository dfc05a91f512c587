"""Files of an evaluation: its folder, the results of an earlier one, exports, and the mirror to trackers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignlab.config.plan import Plan
from alignlab.data.fingerprint import digest, path_digest
from alignlab.errors import DamagedError
from alignlab.evaluation.benchmarks import mt_bench
from alignlab.evaluation.benchmarks.alpaca_eval import Prompt, write_model_outputs
from alignlab.evaluation.examples import FILE, Examples, same_prompts
from alignlab.evaluation.graded_pairs import PAIRS, accuracy_of, read_stored
from alignlab.evaluation.questions import Question
from alignlab.evaluation.settings import Evaluation
from alignlab.evaluation.summary import summarise
from alignlab.integrity import set_aside
from alignlab.judges.base import Judge
from alignlab.models.lineage import weights_fingerprint
from alignlab.rollout.engines.base import Engine
from alignlab.runs.directory import RunDir
from alignlab.training.trackers import open_trackers

log = logging.getLogger(__name__)


def write_outputs(folder: Path, model: str, examples: Examples, questions: Sequence[Question]) -> None:
    """Export the first answer to each prompt: in MT-Bench's format if prompts have turns, else in AlpacaEval's."""
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


def mirror(plan: Plan, run: RunDir, found: Mapping[str, float], folder: Path, examples: Examples) -> None:
    """Send metrics and all rows of an evaluation to the trackers that the run used.

    A tracker that holds nothing of the run yet gets the rows of the earlier evaluations, too.

    folder: where the evaluation is stored.
    """
    if not plan.train.tracking:
        return
    record = run.record()
    step = record.get("config", {}).get("trainer", {}).get("max_steps", plan.train.trainer.max_steps)
    facts = {
        "data/record": record.get("data"),
        "ref/digest": record.get("model", {}).get("reference_weights"),
        "objective/dialect": record.get("objective", {}).get("spoken"),
    }
    for sink in open_trackers(plan, run, record.get("sweep"), facts):
        for earlier in _other_evaluations(run, folder) if sink.anew else ():
            sink.table("answers", _answers(earlier, step))
        sink.log({"train/global_step": step, **found})
        sink.table("answers", _answers(examples, step))
        sink.finish(record.get("summary", {}), ending="done")


def _other_evaluations(run: RunDir, folder: Path) -> list[Examples]:
    """The evaluations of the finished run but the one in `folder`, oldest first."""
    files = [file for file in run.path.glob(f"evaluation/*/{FILE}") if not file.parent.name.startswith("step-")]
    others = sorted((file for file in files if file.parent != folder), key=lambda file: file.stat().st_mtime)
    return [examples for file in others if (examples := stored_examples(file.parent, "is left out")) is not None]


def _answers(examples: Examples, step: int) -> list[dict[str, Any]]:
    """Prompts, answers and verdicts as rows for people to read."""
    columns = ["prompt", *(f"{side}/answer" for side in examples.sides)]
    columns += [name for name in examples.columns if "/score/" in name or "/first/" in name or "/second/" in name]
    return [{"step": step, **{name: examples[name][row] for name in columns}} for row in range(len(examples))]


def earlier_evaluations(run: RunDir, examples: Examples) -> list[dict[str, Any]]:
    """Summaries of evaluations made during training that had the same prompts, sampling settings and judges."""
    found = (stored_examples(folder, "is left out") for folder in sorted((run.path / "evaluation").glob("step-*")))
    snapshots = [snapshot for snapshot in found if snapshot is not None]
    alike = ("sampling", *(f"judge/{name}" for name in examples.scored_by))
    return [
        summarise(snapshot)
        for snapshot in snapshots
        if same_prompts(snapshot, examples) and all(snapshot.facts.get(f) == examples.facts.get(f) for f in alike)
    ]


def stored_pairs(folder: Path) -> dict[str, Any] | None:
    """Accuracy on pairs that an earlier evaluation scored; None if there are none. A damaged file is set aside."""
    if not (folder / PAIRS).exists():
        return None
    try:
        return accuracy_of(read_stored(folder))
    except DamagedError as error:
        log.warning("%s", set_aside(error, "the pairs are scored again"))
        return None


def folder_name(settings: Evaluation, root: str, engine: Engine) -> str:
    """Name of an evaluation's folder: 8 hex digits of a digest of all that determines its rows before judging."""
    files = [path_digest(file) if file else "" for file in (settings.questions, settings.pairs)]
    folders = [RunDir.of(root, name).policy for name in settings.baselines] + [Path(n) for n in settings.baselines]
    files += [weights_fingerprint(str(folder)) for folder in folders if folder.is_dir()]
    decided = (settings.prompts, files, settings.samples, settings.baselines)
    sampling = (settings.max_new_tokens, settings.temperature, settings.seed)
    by = [engine.identity.encode()] if engine.identity else []
    return digest([repr((decided, sampling)).encode(), *by])[:8]


def stored_examples(folder: Path, otherwise: str = "its answers are sampled again") -> Examples | None:
    """Examples of an earlier evaluation; None if there are none. A damaged file is set aside.

    otherwise: what the log says will happen after damage.
    """
    if not (folder / FILE).exists():
        return None
    try:
        return Examples.read(folder)
    except DamagedError as error:
        log.warning("%s", set_aside(error, otherwise))
        return None


def is_judged_by(examples: Examples, name: str, judge: Judge) -> bool:
    """Whether a judge with the same settings has judged all comparisons already."""
    columns = [
        examples[column]
        for b in examples.baselines
        for column in examples.columns
        if column in _verdict_columns(b, name)
    ]
    return examples.facts.get(f"judge/{name}") == judge.fingerprint() and all(None not in c for c in columns)


def _verdict_columns(baseline: str, judge: str) -> tuple[str, str]:
    return f"{baseline}/first/{judge}", f"{baseline}/second/{judge}"
