"""Rows of a run as token ids, and the record of what was loaded, left out and cut."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from alignlab.data.fingerprint import digest
from alignlab.data.rows import Split
from alignlab.data.template import Template
from alignlab.data.tokenize import (
    CompletionTokens,
    Cutter,
    LengthReport,
    PairTokens,
    tokenize_completions,
    tokenize_pairs,
)
from alignlab.errors import DataError
from alignlab.training.progress import bars_wanted, progress_bar
from alignlab.training.start import Start

log = logging.getLogger(__name__)

Tokens = PairTokens | CompletionTokens

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


def _split(start: Start, split: Split) -> tuple[Sequence[Tokens], dict[str, Any]]:
    config = start.plan.train
    template = Template(start.tokenizer)
    progress = progress_bar(bars_wanted(config.trainer.progress))
    cut = Cutter(config.data.max_length, config.data.max_prompt_length)
    tokens: Sequence[Tokens]
    if config.objective.requires.data == "pairs":
        pairs = config.data.pairs(split, lambda world: start.exact_logps)
        (tokens, report), dropped = tokenize_pairs(progress(pairs.rows, "tokenizing"), template, cut), pairs.dropped
    else:
        answers = config.data.completions(split)
        (tokens, report), dropped = (
            tokenize_completions(progress(answers.rows, "tokenizing"), template, cut),
            answers.dropped,
        )
    dropped = dropped + report.dropped
    if not tokens:
        raise DataError(f"no {split} rows are left; left out: {dict(dropped)}")
    _refuse_too_long(start, tokens)
    log.info("%s rows: %s", split, _in_words(len(tokens), dropped, report))
    return tokens, {
        "rows": len(tokens),
        "digest": digest(repr([getattr(row, f.name) for f in fields(row)]).encode() for row in tokens),
        "dropped": dict(dropped),
        **report.summary(),
    }


def _refuse_too_long(start: Start, tokens: Sequence[Tokens]) -> None:
    """DataError for rows longer than the model has positions for."""
    limit = getattr(start.model.config, "max_position_embeddings", None)
    longest = max(len(row.prompt) + max(map(len, _answers(row))) for row in tokens)
    if limit is not None and longest > limit:
        raise DataError(f"a row has {longest} tokens and the model {limit} positions\n  type: data.max_length={limit}")


def _answers(row: Tokens) -> list[list[int]]:
    return [row.chosen, row.rejected] if isinstance(row, PairTokens) else [row.completion]


def _in_words(rows: int, dropped: Counter[str], report: LengthReport) -> str:
    left_out = [f"{count} left out ({reason})" for reason, count in dropped.items()]
    cut = [
        f"{100 * n / report.rows:.1f} % of {_IN_WORDS[part]} cut" for part, n in sorted(report.truncated.items()) if n
    ]
    return ", ".join([str(rows), *left_out, *cut])
