"""The rows of a run as token ids, with a record of how many were loaded, left out and cut."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from alignlab.config.plan import Plan
from alignlab.config.schemas import Train
from alignlab.data.audit.audit import Look, audit, errors_for
from alignlab.data.audit.texts import look_at_texts
from alignlab.data.audit.tokens import look_at_tokens
from alignlab.data.fingerprint import digest
from alignlab.data.layout import Layout
from alignlab.data.order import BatchTransform, rows_of_run
from alignlab.data.rows import LeftOut, Split
from alignlab.data.sources.base import Source
from alignlab.data.tokenize import Collect, Cutter, LabelledTokens, PairTokens, PromptAndAnswer, Tokens, mismatched
from alignlab.errors import DataError
from alignlab.models.generation import template_of
from alignlab.models.layout_check import choose_layout, rows_to_look_at
from alignlab.plugins import code_of
from alignlab.progress import bars_wanted, progress_bar
from alignlab.spelling import counted
from alignlab.training.data_shapes import SHAPES, Shape, read_rows, shape_of
from alignlab.training.setup import InitialPolicy, load_initial_policy, without_weights
from alignlab.training.token_store import FORMAT, TokenizedSplit, stored_split

log = logging.getLogger(__name__)

# Findings that make the results of a run doubtful.
_LOUD = ("leaked", "one_sided")


@dataclass(frozen=True)
class RunRows:
    """Training and held-out rows. The `index` of held-out rows continues that of the training rows.

    counts: number of training rows of each kind, for the objective's warnings about its data.
    mean_tokens: mean tokens of a training row. A prompt counts once for each of its answers.
    record: the entry `data` of run.json.
    left_out: split -> the rows that were left out, as far as they are known one by one.
    pairs:  further held-out pairs that the policy is measured on (labelled answers, if the data has no pairs); empty if
            the held-out rows are these.
    """

    train: Sequence[Tokens]
    held_out: Sequence[Tokens]
    record: Mapping[str, Any]
    left_out: Mapping[Split, Sequence[LeftOut]]
    counts: Mapping[str, int]
    mean_tokens: float
    pairs: Sequence[PairTokens | LabelledTokens] = ()


def load_starts(plans: Sequence[Plan]) -> list[tuple[InitialPolicy, RunRows]]:
    """The start and the rows of each run. All runs start from the same weights, which are loaded once.

    The rows are audited first, so that errors in the data stop a run before weights are loaded. Rows of a world are
    sampled from the start, and come after it. Raises the errors of `load_rows`.
    """
    rows: dict[str, RunRows] = {}

    def kind(plan: Plan) -> str:
        return repr((plan.train.data, plan.train.objective.requires))

    def read(start: InitialPolicy, own: Sequence[Plan]) -> None:
        for plan in own:
            if kind(plan) not in rows:
                rows[kind(plan)] = load_rows(replace(start, plan=plan))

    sampled = [plan for plan in plans if plan.train.data.world is not None]
    given = [plan for plan in plans if plan.train.data.world is None]
    if given:
        read(without_weights(given[0]), given)
    loaded = load_initial_policy(plans[0])
    read(loaded, sampled)
    return [(replace(loaded, plan=plan), rows[kind(plan)]) for plan in plans]


def load_rows(start: InitialPolicy) -> RunRows:
    """Load, tokenize and cut both splits.

    start: its weights may be missing (`without_weights`), unless the rows are sampled from it.

    Files that were digested when the run was planned are not digested again unless they are read: stored token rows
    are those of the digest.

    Raises DataError if a split is empty, if the audit of the rows finds an error, or if a file that is read has changed
    since the run was planned. The id of the run would then belong to other rows.
    """
    source = start.plan.train.data
    content = start.plan.content.get("data.content") or source.fingerprint()
    train = _read_own(start, "train", content)
    held_out = _read_own(start, "eval", content)
    found = _audit(start, train, held_out)
    record: dict[str, Any] = {
        "fingerprint": content,
        "train": train.record,
        "eval": held_out.record,
        "audit": found,
    }
    if source.world is None:  # both splits of the lab are sampled from all of its prompts
        leaked = [finding["count"] for finding in found["warnings"] if finding["name"] == "leaked"]
        record["eval"]["prompts_in_train"] = sum(leaked)
    pairs, record["pairs"] = _pairs(start, content, record["eval"])
    after = len(train.tokens)
    return RunRows(
        train.tokens,
        [replace(row, index=row.index + after) for row in held_out.tokens],
        record,
        {"train": train.left_out, "eval": held_out.left_out},
        train.counts,
        train.look.tokens.per_row if train.look.tokens else 0.0,
        [replace(row, index=row.index + after) for row in pairs],
    )


def batch_transform_of(config: Train) -> BatchTransform | None:
    """The function that gives each row of a batch the answer of another row; None if the objective needs none."""
    return mismatched if config.objective.requires.mismatched else None


def reference_requests(config: Train, rows: RunRows) -> Iterator[PromptAndAnswer]:
    """All (prompt, answer) token ids whose reference log-probabilities a run needs, in the order of its batches."""
    trainer, batch_transform = config.trainer, batch_transform_of(config)
    steps = config.steps(len(rows.train))
    train = rows_of_run(rows.train, trainer.batch_size, config.seed, steps, batch_transform, trainer.sampling)
    for row in (*train, *(batch_transform(rows.held_out) if batch_transform else rows.held_out), *rows.pairs):
        yield from row.answers()


def choose_layout_for(start: InitialPolicy, rows: Sequence[Tokens]) -> Layout:
    """The layout of a run's batches. It is chosen by trying some of the rows."""
    return choose_layout(start.model, rows_to_look_at(start.model, rows), start.plan.train.trainer.layout)


def _pairs(
    start: InitialPolicy, content: str, eval_record: Mapping[str, Any]
) -> tuple[Sequence[PairTokens | LabelledTokens], Mapping[str, Any] | None]:
    """(held-out pairs that are not the run's own held-out rows, their record); the record is None without pairs.

    If the data has no pairs but labelled answers, it is those.
    """
    needs, kind = start.plan.train.objective.requires, start.plan.measured_on
    if not kind:
        return (), None
    if needs.data == kind and not needs.online:
        return (), eval_record if kind == "pairs" else None
    if kind == "labelled":
        answers = _read(start, "eval", content, SHAPES["labelled"], "labelled").tokens
        log.info("held-out labelled answers: %d", len(answers))
        return [row for row in answers if isinstance(row, LabelledTokens)], None
    read = _read(start, "eval", content, SHAPES["pairs"], "pairs")
    log.info("held-out pairs: %d", len(read.tokens))
    return [row for row in read.tokens if isinstance(row, PairTokens)], read.record


def _audit(start: InitialPolicy, train: TokenizedSplit, held_out: TokenizedSplit) -> dict[str, Any]:
    """The audit of both splits for run.json. Raises DataError with its errors, and logs its warnings."""
    config = start.plan.train
    looks: dict[Split, Look] = {"train": train.look, "eval": held_out.look}
    positions = getattr(start.model.config, "max_position_embeddings", None)
    found = audit(config.data, looks, positions=positions)
    if errors := [*found.errors, *errors_for(config.objective.requires, looks)]:
        raise DataError("\n".join(map(str, errors)))
    noise = f" ({counted(train.flipped, 'label')} flipped)" if train.flipped else ""
    log.info("train rows: %d%s, eval rows: %d", len(train.tokens), noise, len(held_out.tokens))
    for finding in found.warnings:
        log.log(logging.WARNING if finding.name in _LOUD else logging.INFO, "%s", finding)
    return found.record()


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


# A cache of the last splits that were read, because most points of a sweep train on the same rows.
_MOST_KEPT = 8
_kept: dict[str, TokenizedSplit] = {}


def _read_own(start: InitialPolicy, split: Split, content: str) -> TokenizedSplit:
    """A split in the shape that the run's objective needs."""
    needs = start.plan.train.objective.requires
    return _read(start, split, content, shape_of(needs), needs.rows)


def _read(start: InitialPolicy, split: Split, content: str, shape: Shape, rows: str) -> TokenizedSplit:
    """Load, tokenize and cut a split, or take it from the cache if another point of this process has read it.

    rows: the kind of rows that the shape reads.
    """
    config, source = start.plan.train, start.plan.train.data
    template = template_of(start.model, start.tokenizer, source.template)
    sampled_from = start.weights if source.world is not None else ""  # the lab's pairs are samples of the reference
    settings = {f.name: getattr(source, f.name) for f in fields(source) if f.name not in source.content_fields}
    parts = [type(source).__name__, repr(settings), content, split, rows, template.identity, sampled_from, FORMAT]
    if code := code_of(type(source)):  # a plug-in may read other rows after it was edited
        parts.append(code)
    key = digest(part.encode() for part in parts)
    if key not in _kept:

        def make(collect: Collect = list) -> TokenizedSplit:
            progress = progress_bar(bars_wanted(config.trainer.progress))
            loaded, flipped = read_rows(shape, source, split, lambda world: start.exact_logps)
            if source.fingerprint() != content:
                raise _changed_error(source)
            cut = Cutter(source.max_length, source.max_prompt_length)
            tokens, report = shape.tokenize(progress(loaded.rows, "tokenizing"), template, cut, collect=collect)
            rows_digest = digest(repr([getattr(row, f.name) for f in fields(row)]).encode() for row in tokens)
            # The rows of a world repeat, because they are samples of a few answers.
            look = Look(look_at_texts(loaded) if source.world is None else None, look_at_tokens(tokens, report))
            dropped = loaded.dropped + report.dropped
            counts = shape.count(tokens)
            return TokenizedSplit(tokens, look, loaded.left_out, dropped, report, rows_digest, counts, flipped)

        while len(_kept) >= _MOST_KEPT:
            _kept.pop(next(iter(_kept)))
        folder = Path(config.output_root) / "tokens" / key
        _kept[key] = make() if source.world is not None else stored_split(folder, shape.tokens, make)
    return _kept[key]
