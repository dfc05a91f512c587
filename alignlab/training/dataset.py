"""The rows of a run as token ids, with a record of how many were loaded, left out and cut."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from alignlab.config.plan import Plan
from alignlab.config.schemas import Train
from alignlab.data.conversations import prompt_key
from alignlab.data.fingerprint import digest
from alignlab.data.layout import Layout
from alignlab.data.noise import with_noise
from alignlab.data.order import BatchTransform, rows_of_run
from alignlab.data.rows import Split
from alignlab.data.sources.base import Source
from alignlab.data.tokenize import Cutter, LengthReport, PairTokens, PromptAndAnswer, Tokens, mismatched
from alignlab.errors import DataError
from alignlab.models.generation import template_of
from alignlab.models.layout_check import choose_layout, rows_to_look_at
from alignlab.progress import bars_wanted, progress_bar
from alignlab.spelling import counted
from alignlab.training.data_shapes import SHAPES, Shape, shape_of
from alignlab.training.setup import InitialPolicy

log = logging.getLogger(__name__)

_PART_NAMES = {"prompt": "prompts", "chosen": "chosen answers", "rejected": "rejected answers", "completion": "answers"}

_SEAMS = {
    "boundary_moved": "a token that spans prompt and answer (it counts as the answer's)",
    "answer_rewritten": "an answer that the chat template changes",
}


@dataclass(frozen=True)
class RunRows:
    """Training and held-out rows. The `index` of held-out rows continues that of the training rows.

    record: the entry `data` of run.json.
    pairs:  further held-out pairs that the policy is measured on; empty if the held-out rows are these pairs.
    """

    train: Sequence[Tokens]
    held_out: Sequence[Tokens]
    record: Mapping[str, Any]
    pairs: Sequence[PairTokens] = ()


def load_rows(start: InitialPolicy) -> RunRows:
    """Load, tokenize and cut both splits.

    Raises DataError if a split is empty, or if a file has changed since the run was planned. The id of the run would
    then belong to other rows.
    """
    source = start.plan.train.data
    content = source.fingerprint()
    if start.plan.content.get("data.content", content) != content:
        raise _changed_error(source)
    train = _read_own(start, "train", content)
    held_out = _read_own(start, "eval", content)
    record: dict[str, Any] = {
        "fingerprint": content,
        "train": _split_record(start, "train", train),
        "eval": _split_record(start, "eval", held_out),
    }
    if source.world is None:  # both splits of the lab are sampled from all of its prompts
        record["eval"]["prompts_in_train"] = _count_shared_prompts(train, held_out)
    pairs, record["pairs"] = _pairs(start, content, record["eval"])
    after = len(train.tokens)
    return RunRows(
        train.tokens,
        [replace(row, index=row.index + after) for row in held_out.tokens],
        record,
        [replace(row, index=row.index + after) for row in pairs],
    )


def batch_transform_of(config: Train) -> BatchTransform | None:
    """The function that gives each row of a batch the answer of another row; None if the objective needs none."""
    return mismatched if config.objective.requires.mismatched else None


def reference_requests(config: Train, rows: RunRows) -> Iterator[PromptAndAnswer]:
    """All (prompt, answer) token ids whose reference log-probabilities a run needs, in the order of its batches."""
    trainer, batch_transform = config.trainer, batch_transform_of(config)
    train = rows_of_run(
        rows.train, trainer.batch_size, config.seed, trainer.max_steps, batch_transform, trainer.sampling
    )
    for row in (*train, *(batch_transform(rows.held_out) if batch_transform else rows.held_out), *rows.pairs):
        yield from row.answers()


def choose_layout_for(start: InitialPolicy, rows: Sequence[Tokens]) -> Layout:
    """The layout of a run's batches. It is chosen by trying some of the rows."""
    return choose_layout(start.model, rows_to_look_at(start.model, rows), start.plan.train.trainer.layout)


def _split_record(start: InitialPolicy, split: Split, read: _Read) -> dict[str, Any]:
    """The record of a split. Raises DataError if the run can't use the rows of the split."""
    needs = start.plan.train.objective.requires
    _refuse_too_few(split, read.tokens, 2 if needs.mismatched else 1, read.dropped)
    if needs.margin and any(getattr(row, "margin", None) is None for row in read.tokens):
        raise DataError(f"objective.margins: not all {split} rows have a margin\n  type: objective.margins=false")
    _refuse_too_long(start, read.tokens)
    noise = f", {counted(read.flipped, 'label')} flipped" if read.flipped else ""
    log.info("%s rows: %s%s", split, _summary(len(read.tokens), read.dropped, read.report), noise)
    return read.record


def _pairs(
    start: InitialPolicy, content: str, eval_record: Mapping[str, Any]
) -> tuple[Sequence[PairTokens], Mapping[str, Any] | None]:
    """(held-out pairs that are not the run's own held-out rows, their record); the record is None without pairs."""
    needs = start.plan.train.objective.requires
    if not start.plan.is_measured_on_pairs:
        return (), None
    if needs.data == "pairs" and not needs.online:
        return (), eval_record
    read = _read(start, "eval", content, SHAPES["pairs"], "pairs")
    log.info("held-out pairs: %s", _summary(len(read.tokens), read.dropped, read.report))
    return [row for row in read.tokens if isinstance(row, PairTokens)], read.record


def _count_shared_prompts(train: _Read, held_out: _Read) -> int:
    """The number of held-out rows whose prompt is also in the training rows. Logs a warning if there are any."""
    known = set(train.prompts)
    shared = sum(prompt in known for prompt in held_out.prompts)
    if shared:
        text = "training also uses the prompts of %d of %s: these rows do not measure how the policy generalises"
        log.warning(text, shared, counted(len(held_out.prompts), "held-out row"))
    return shared


def refuse_changed_data(plan: Plan) -> None:
    """Raise DataError if a run's files have changed since it was trained, so that its held-out rows are unknown."""
    source = plan.train.data
    trained_on = plan.run.record().get("data", {}).get("fingerprint")
    if source.content_fields and trained_on and source.fingerprint() != trained_on:
        text = f"not what {plan.id} was trained on: its held-out rows are no longer known"
        raise DataError(f"{_paths(source)}: {text}\n  type: evaluation.questions=<a file of prompts>")


def _changed_error(source: Source) -> DataError:
    return DataError(f"{_paths(source)}: changed since this command began\n  type: the same command again")


def _paths(source: Source) -> str:
    return ", ".join(f"data.{name}={value}" for name in source.content_fields if (value := getattr(source, name)))


@dataclass(frozen=True)
class _Read:
    """A split as token ids, with counts of what was left out and cut.

    prompts: a digest of the prompt of each loaded row.
    flipped: number of labels that `data.noise` has flipped.
    """

    tokens: Sequence[Tokens]
    prompts: Sequence[str]
    dropped: Counter[str]
    report: LengthReport
    digest: str
    flipped: int = 0

    @property
    def record(self) -> dict[str, Any]:
        """The entry of the split in run.json."""
        kept = {"rows": len(self.tokens), "digest": self.digest, "dropped": dict(self.dropped)}
        noise = {"flipped": self.flipped} if self.flipped else {}
        return {**kept, **noise, **self.report.summary()}


# A cache of the last splits that were read, because most points of a sweep train on the same rows.
_MOST_KEPT = 8
_kept: dict[str, _Read] = {}


def _read_own(start: InitialPolicy, split: Split, content: str) -> _Read:
    """A split in the shape that the run's objective needs."""
    needs = start.plan.train.objective.requires
    return _read(start, split, content, shape_of(needs), needs.rows)


def _read(start: InitialPolicy, split: Split, content: str, shape: Shape, rows: str) -> _Read:
    """Load, tokenize and cut a split, or take it from the cache if another point of this process has read it.

    rows: the kind of rows that the shape reads.
    """
    config, source = start.plan.train, start.plan.train.data
    template = template_of(start.model, start.tokenizer, source.template)
    sampled_from = start.weights if source.world is not None else ""  # the lab's pairs are samples of the reference
    parts = (repr(source), content, split, rows, template.identity, sampled_from)
    key = digest(part.encode() for part in parts)
    if key not in _kept:
        progress = progress_bar(bars_wanted(config.trainer.progress))
        loaded, flipped = shape.read(source, split, lambda world: start.exact_logps), 0
        if split == "train":
            loaded, flipped = with_noise(loaded, source.noise)
        cut = Cutter(source.max_length, source.max_prompt_length)
        tokens, report = shape.tokenize(progress(loaded.rows, "tokenizing"), template, cut)
        rows_digest = digest(repr([getattr(row, f.name) for f in fields(row)]).encode() for row in tokens)
        prompts = [digest([prompt_key(row.prompt).encode()]) for row in loaded.rows]
        if source.fingerprint() != content:
            raise _changed_error(source)
        while len(_kept) >= _MOST_KEPT:
            _kept.pop(next(iter(_kept)))
        _kept[key] = _Read(tokens, prompts, loaded.dropped + report.dropped, report, rows_digest, flipped)
    return _kept[key]


def _refuse_too_long(start: InitialPolicy, tokens: Sequence[Tokens]) -> None:
    """Raise DataError if a row has more tokens than the model has positions."""
    limit = getattr(start.model.config, "max_position_embeddings", None)
    longest = max(len(prompt) + len(answer) for row in tokens for prompt, answer in row.answers())
    if limit is not None and longest > limit:
        raise DataError(
            f"a row has {counted(longest, 'token')}, but the model has {counted(limit, 'position')}\n"
            f"  type: data.max_length={limit}"
        )


def _refuse_too_few(split: Split, tokens: Sequence[Tokens], least: int, dropped: Counter[str]) -> None:
    """Raise DataError if fewer than `least` rows are left. Two are needed to estimate a KL from other rows' answers."""
    if not tokens:
        raise DataError(f"no {split} rows are left; {', '.join(_left_out(dropped)) or 'none was left out'}")
    if len(tokens) < least:
        raise DataError(f"one {split} row is left, but this objective estimates a KL from the answers of other rows")


def _summary(rows: int, dropped: Counter[str], report: LengthReport) -> str:
    """The number of rows with counts of what was left out and shares of what was cut, for the log."""
    cut = [
        f"{100 * n / report.rows:.1f} % of {_PART_NAMES[part]} cut" for part, n in sorted(report.truncated.items()) if n
    ]
    seams = [f"{counted(n, 'row')} with {_SEAMS[name]}" for name, n in report.seams().items() if n]
    return ", ".join([str(rows), *_left_out(dropped), *cut, *seams])


def _left_out(dropped: Counter[str]) -> list[str]:
    return [f"{number} left out ({reason})" for reason, number in dropped.items()]
