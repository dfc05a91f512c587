"""Rows of a run as token ids, and the record of what was loaded, left out and cut."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from alignlab.config.schemas import Train
from alignlab.data.fingerprint import digest
from alignlab.data.layout import Layout
from alignlab.data.rows import Split
from alignlab.data.sampling import Couple, rows_of_run
from alignlab.data.tokenize import Cutter, LengthReport, PromptAndAnswer, Tokens, mismatched
from alignlab.errors import DataError
from alignlab.models.generation import template_of
from alignlab.models.layout import choose_layout, rows_to_look_at
from alignlab.training.progress import bars_wanted, progress_bar
from alignlab.training.shapes import shape_of
from alignlab.training.start import Start

log = logging.getLogger(__name__)

_IN_WORDS = {"prompt": "prompts", "chosen": "chosen answers", "rejected": "rejected answers", "completion": "answers"}


@dataclass(frozen=True)
class RunRows:
    """Training and held-out rows; `index` counts on from the training rows to the held-out ones."""

    train: Sequence[Tokens]
    held_out: Sequence[Tokens]
    record: Mapping[str, Any]


def load_rows(start: Start) -> RunRows:
    """Load, tokenize and cut both splits. Raises DataError where nothing is left of one."""
    source = start.plan.train.data
    train, train_record = _split(start, "train")
    held_out, eval_record = _split(start, "eval")
    record = {"fingerprint": source.fingerprint(), "train": train_record, "eval": eval_record}
    return RunRows(train, [replace(row, index=row.index + len(train)) for row in held_out], record)


def couple_of(config: Train) -> Couple | None:
    """What gives the rows of a batch their part of each other, where the objective asks for it."""
    return mismatched if config.objective.requires.mismatched else None


def asked_of_reference(config: Train, rows: RunRows) -> Iterator[PromptAndAnswer]:
    """Everything that a run will ask the reference for."""
    trainer, couple = config.trainer, couple_of(config)
    train = rows_of_run(rows.train, trainer.batch_size, config.seed, trainer.max_steps, couple, trainer.sampling)
    for row in (*train, *(couple(rows.held_out) if couple else rows.held_out)):
        yield from row.answers()


def choose_layout_for(start: Start, rows: Sequence[Tokens]) -> Layout:
    """The layout of a run, from a look at some of its rows."""
    return choose_layout(start.model, rows_to_look_at(start.model, rows), start.plan.train.trainer.layout)


def _split(start: Start, split: Split) -> tuple[Sequence[Tokens], dict[str, Any]]:
    needs = start.plan.train.objective.requires
    read = _read(start, split)
    _refuse_too_few(split, read.tokens, 2 if needs.mismatched else 1, read.dropped)
    if needs.margin and any(getattr(row, "margin", None) is None for row in read.tokens):
        raise DataError(f"objective.margins: not all {split} rows have a margin\n  type: objective.margins=false")
    _refuse_too_long(start, read.tokens)
    log.info("%s rows: %s", split, _in_words(len(read.tokens), read.dropped, read.report))
    return read.tokens, {
        "rows": len(read.tokens),
        "digest": read.digest,
        "dropped": dict(read.dropped),
        **read.report.summary(),
    }


@dataclass(frozen=True)
class _Read:
    """A split as token ids, and what was left out and cut of it."""

    tokens: Sequence[Tokens]
    dropped: Counter[str]
    report: LengthReport
    digest: str


# The last splits that were read: most points of a sweep train on the same rows.
_MOST_KEPT = 6
_kept: dict[str, _Read] = {}


def _read(start: Start, split: Split) -> _Read:
    """Load, tokenize and cut a split, or find what another point of this process has made of the same."""
    config, template = start.plan.train, template_of(start.model, start.tokenizer)
    source, needs = config.data, config.objective.requires
    shape = shape_of(needs)
    drawn_from = start.weights if source.world is not None else ""  # the lab's pairs are samples of the reference
    parts = (repr(source), source.fingerprint(), split, needs.rows, template.identity, drawn_from)
    key = digest(part.encode() for part in parts)
    if key not in _kept:
        progress = progress_bar(bars_wanted(config.trainer.progress))
        loaded = shape.read(source, split, lambda world: start.exact_logps)
        cut = Cutter(source.max_length, source.max_prompt_length)
        tokens, report = shape.tokenize(progress(loaded.rows, "tokenizing"), template, cut)
        content = digest(repr([getattr(row, f.name) for f in fields(row)]).encode() for row in tokens)
        while len(_kept) >= _MOST_KEPT:
            _kept.pop(next(iter(_kept)))
        _kept[key] = _Read(tokens, loaded.dropped + report.dropped, report, content)
    return _kept[key]


def _refuse_too_long(start: Start, tokens: Sequence[Tokens]) -> None:
    """DataError for rows longer than the model has positions for."""
    limit = getattr(start.model.config, "max_position_embeddings", None)
    longest = max(len(prompt) + len(answer) for row in tokens for prompt, answer in row.answers())
    if limit is not None and longest > limit:
        raise DataError(f"a row has {longest} tokens and the model {limit} positions\n  type: data.max_length={limit}")


def _refuse_too_few(split: Split, tokens: Sequence[Tokens], least: int, dropped: Counter[str]) -> None:
    """DataError where nothing is left, or one row where a KL estimate needs another row's answer."""
    if not tokens:
        raise DataError(f"no {split} rows are left; left out: {dict(dropped)}")
    if len(tokens) < least:
        raise DataError(f"one {split} row is left, and this objective estimates a KL from other rows' answers")


def _in_words(rows: int, dropped: Counter[str], report: LengthReport) -> str:
    left_out = [f"{count} left out ({reason})" for reason, count in dropped.items()]
    cut = [
        f"{100 * n / report.rows:.1f} % of {_IN_WORDS[part]} cut" for part, n in sorted(report.truncated.items()) if n
    ]
    return ", ".join([str(rows), *left_out, *cut])
