"""Makes preference data: samples of a policy, labelled by a judge or compared with the data's own answers."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from alignlab.data.fingerprint import digest
from alignlab.data.sources.base import Source
from alignlab.discovery import module_name
from alignlab.errors import DataError
from alignlab.evaluation.suite import ModelSide
from alignlab.integrity import json_digest
from alignlab.judges.base import Judge, JudgingCost
from alignlab.judges.cache import Store
from alignlab.locks import file_lock
from alignlab.pipeline.policies import Policy
from alignlab.progress import Progress
from alignlab.rollout.engines.base import Engine
from alignlab.rollout.engines.huggingface import HuggingFace
from alignlab.runs.directory import now
from alignlab.spelling import counted
from alignlab.synthesis.output import copy_rows, finished, rows_file, write_rows
from alignlab.synthesis.prompts import AskedPrompt, Prompts, prompts_of_data, prompts_of_file
from alignlab.synthesis.rows import Row, Scored, distinct, judged_rows, rows_against_data
from alignlab.synthesis.samples import SampledAnswer, Samples, sample_answers
from alignlab.synthesis.scores import Scores, compared, rated
from alignlab.synthesis.settings import READ_BY, Synthesis
from alignlab.training.setup import device_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to make, and with what.

    policy: the policy that is sampled.
    source: data whose training rows give the prompts; None if `how.questions` names a file of them.
    judge:  judge that scores the answers, and its name; None if the data's own answers are preferred.
    root:   output root.
    engine: samples the answers.
    """

    how: Synthesis
    policy: Policy
    source: Source | None
    judge: tuple[str, Judge] | None
    root: Path
    accelerator: str
    progress: Progress
    engine: Engine = field(default_factory=HuggingFace)


@dataclass(frozen=True)
class Synthesized:
    """The file of the rows, and their provenance.

    cost: what the judge cost in this call; nothing if the rows were found.
    """

    id: str
    file: Path
    provenance: dict[str, Any]
    cost: JudgingCost


def synthesize(request: Request) -> Synthesized:
    """Make the rows, or find those that the same request has made before.

    Samples and scores are stored as they come. A stopped command continues from them, and other requests with the same
    policy, prompts or judge reuse them.
    Raises DataError if no row could be made.
    """
    how, prompts = request.how, _prompts(request)
    if request.source is not None and request.source.world is not None and request.source.world.is_whole:
        how = replace(how, max_new_tokens=request.source.world.length)
    decided = _decided(request, how, prompts)
    id_ = f"{how.form}-{json_digest(decided, 12)}"
    file = rows_file(request.root / "synthesis" / id_, how.form, how.format)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(file.parent / "lock"):
        if (found := finished(file)) is not None:
            log.info("%s was made before: %s", id_, file)
            return Synthesized(id_, file, found, JudgingCost())
        made = _make(request, how, prompts)
        provenance = {"id": id_, "made": now(), **decided, **made.record}
        if not made.rows:
            reasons = ", ".join(f"{reason}: {number}" for reason, number in made.record["left_out"].items())
            raise DataError(f"no row could be made ({reasons})\n  type: {_remedy(how)}")
        write_rows(file, made.rows, provenance)
    return Synthesized(id_, file, finished(file) or provenance, made.cost)


def copied(made: Synthesized, to: Path) -> Synthesized:
    """The same rows in another file, which is written with their provenance. Raises UnsavedError if that fails."""
    copy_rows(made.file, to)
    return replace(made, file=to)


@dataclass(frozen=True)
class _Made:
    """Rows, and the part of their provenance that is known after they are made."""

    rows: list[Row]
    record: dict[str, Any]
    cost: JudgingCost


def _prompts(request: Request) -> Prompts:
    how = request.how
    if how.questions:
        prompts = prompts_of_file(how.questions, how.prompts)
    else:
        assert request.source is not None
        prompts = prompts_of_data(request.source, how.prompts)
    if how.prompts > len(prompts.rows):
        log.info("synthesis.prompts=%d, but there are %d distinct prompts", how.prompts, len(prompts.rows))
    return prompts


def _decided(request: Request, how: Synthesis, prompts: Prompts) -> dict[str, Any]:
    """Everything that decides the rows. It is a part of their provenance."""
    settings = asdict(how)
    for key in ("prompts", "questions", "batch_size", "judge"):  # their effect is in the other entries
        del settings[key]
    asked = [(row.prompt, [asdict(answer) for answer in row.own]) for row in prompts.rows]
    return {
        "policy": request.policy.content,
        "judge": "" if request.judge is None else request.judge[1].fingerprint(),
        "settings": settings,
        **({"engine": request.engine.identity} if request.engine.identity else {}),
        "prompts": {
            "number": len(prompts.rows),
            "of": prompts.found,
            "digest": digest([repr(asked).encode()]),
            "longest": _longest(request),
            "template": "" if request.source is None else request.source.template,
        },
    }


def _make(request: Request, how: Synthesis, prompts: Prompts) -> _Made:
    side = request.policy.load()
    if request.source is not None:
        side = replace(side, template_use=request.source.template)
    side.model.to(device_of(request.accelerator))
    log.info("%s: %s for %s", request.policy.name, counted(how.samples, "sample"), counted(len(prompts.rows), "prompt"))
    samples = _samples(request, how, prompts, side)
    weights = side.weights
    del side  # frees its memory before a reward model is loaded
    left_out = Counter(prompts.left_out)
    answers = [distinct(found, left_out) for found in samples.answers]
    scores = Scores([])
    if request.judge is None:
        asked = zip(prompts.rows, answers, strict=True)
        rows = [row for one, found in asked for row in rows_against_data(one, found, how, left_out)]
    else:
        scores = _scores(request, how, prompts.rows, answers)
        tie_margin = float(getattr(request.judge[1], "tie_margin", 0.0))
        rows = [
            row
            for one, found, values in zip(prompts.rows, answers, scores.table, strict=True)
            for row in judged_rows(one.prompt, _scored(found, values), how, tie_margin, left_out)
        ]
    drawn = [answer for found in samples.answers for answer in found]
    record = {
        "weights": weights,
        "names": {
            "policy": request.policy.name,
            "judge": "" if request.judge is None else request.judge[0],
            "data": request.how.questions or module_name(type(request.source)),
        },
        "data_settings": None if request.source is None else asdict(request.source),
        "judge_settings": None if request.judge is None else _settings(request.judge[1]),
        "read_by": module_name(READ_BY[how.form]),
        "rows": len(rows),
        "samples": len(drawn),
        "cut_off": sum(not answer.ended for answer in drawn),
        "cut_prompts": samples.cut,
        "left_out": dict(left_out),
        "unjudged": scores.unjudged,
        "judging": {**vars(scores.cost), "failures": dict(scores.cost.failures)},
    }
    return _Made(rows, record, scores.cost)


def _samples(request: Request, how: Synthesis, prompts: Prompts, side: ModelSide) -> Samples:
    kept = Store(request.root / "samples" / "prompts", "the answers are sampled again")
    asked = [row.prompt for row in prompts.rows]
    return sample_answers(side, asked, how, request.engine, _longest(request) or sys.maxsize, kept, request.progress)


def _scores(
    request: Request, how: Synthesis, rows: Sequence[AskedPrompt], answers: Sequence[Sequence[SampledAnswer]]
) -> Scores:
    assert request.judge is not None
    judge, replies = request.judge[1], request.root / "judgements"
    asked = [(row.prompt, found) for row, found in zip(rows, answers, strict=True)]
    if how.judging == "compare":
        return compared(judge, asked, replies, request.progress)
    return rated(judge, asked, Store(replies / "scores"), replies, request.progress)


def _scored(answers: Sequence[SampledAnswer], scores: Sequence[float]) -> list[Scored]:
    return [Scored(answer.text, answer.ended, score) for answer, score in zip(answers, scores, strict=True)]


def _longest(request: Request) -> int | None:
    """Most tokens of a prompt of the data. Prompts of a file are not cut."""
    return None if request.how.questions or request.source is None else request.source.max_prompt_length


def _settings(judge: Judge) -> dict[str, Any]:
    return {"kind": module_name(type(judge)), **asdict(judge)}


def _remedy(how: Synthesis) -> str:
    if how.preferred == "data":
        return "synthesis.seed=2, or data with good answers"
    return f"synthesis.samples={max(4, 2 * how.samples)}, or a judge that gives these answers different scores"
