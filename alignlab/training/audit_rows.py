"""Audits the rows of runs before they start. Of a model, only the tokenizer is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from alignlab.config.plan import Plan
from alignlab.config.schemas import RunEvaluation, Train
from alignlab.data.audit.audit import Audit, Finding, Look, audit, errors_for
from alignlab.data.audit.shown import ShownRow, show_row
from alignlab.data.audit.texts import look_at_texts
from alignlab.data.audit.tokens import look_at_tokens
from alignlab.data.filters import count_different
from alignlab.data.fingerprint import digest
from alignlab.data.rows import Loaded, Split
from alignlab.data.sources.pairs import Pairs
from alignlab.data.template import Template
from alignlab.data.tokenize import Cutter
from alignlab.errors import DataError, ModelError, UnreachableError
from alignlab.lab.world import World
from alignlab.models.generation import template_of
from alignlab.models.sources.base import ModelConfigs, ModelSource
from alignlab.spelling import counted
from alignlab.training.data_shapes import Shape, read_rows, shape_of

# The most rows of a split that are tokenized, unless all rows are asked for.
SAMPLE = 20_000

# The most rows of a split that are compared with the tokenizer's own rendering, unless all rows are asked for.
COMPARED = 2_048

_SPLITS: tuple[Split, ...] = ("train", "eval")


@dataclass(frozen=True)
class AuditedRows:
    """The rows of all runs with the same data, kind of rows and tokenizer.

    key:   a digest of what the rows depend on.
    looks: split -> what it shows. Empty if the rows could not be read.
    shown: the first training rows as tokens.
    """

    key: str
    audit: Audit
    looks: Mapping[Split, Look] = field(default_factory=dict)
    shown: Sequence[ShownRow] = ()

    def record(self) -> dict[str, Any]:
        """The audit and the shown rows in plain containers, for JSON."""
        return {**self.audit.record(), "shown": [row.record() for row in self.shown]}


class Auditor:
    """Audits the rows of plans. Plans with the same rows are audited once.

    every_row: tokenize all rows, not only a sample of them.
    shown:     number of training rows to show as tokens.
    """

    def __init__(self, *, every_row: bool = False, shown: int = 0) -> None:
        self._every_row, self._shown = every_row, shown
        self._audited: dict[str, AuditedRows] = {}
        self._tokenizers: dict[str, tuple[ModelConfigs, Any]] = {}

    def audit(self, plan: Plan) -> AuditedRows:
        """The audited rows of a plan, whose data must not come from a world."""
        source, needs = plan.train.data, plan.train.objective.requires
        parts = (source, source.fingerprint(), needs.rows, needs.data, first_model(plan))
        key = digest(repr(part).encode() for part in parts)
        if key not in self._audited:
            found = self._look(key, plan)
            if found.looks and isinstance(source, Pairs):
                warnings = [*found.audit.warnings, *_swapped_scores(source.scores())]
                found = replace(found, audit=replace(found.audit, warnings=warnings))
            self._audited[key] = found
        return self._audited[key]

    def _look(self, key: str, plan: Plan) -> AuditedRows:
        try:
            loaded = _texts_of(plan)
        except UnreachableError as error:
            return AuditedRows(key, Audit(unchecked=[f"the rows: {error}"]))
        except DataError as error:
            return AuditedRows(key, Audit(errors=[Finding("unusable_rows", str(error))]))
        looks = {split: Look(look_at_texts(rows)) for split, rows in loaded.items()}
        if first_model(plan).allows_remote_code:
            unchecked = ["the tokens: a check does not run a model's own code (model.trust_remote_code)"]
            return AuditedRows(key, audit(plan.train.data, looks, unchecked=unchecked), looks)
        try:
            configs, tokenizer = self._tokenizer(first_model(plan))
        except ModelError as error:
            if Path(first_model(plan).name).is_dir():
                raise
            return AuditedRows(key, audit(plan.train.data, looks, unchecked=[f"the tokens: {error}"]), looks)
        try:
            return self._with_tokens(key, plan, loaded, looks, configs, tokenizer)
        except DataError as error:
            return AuditedRows(key, Audit(errors=[Finding("unusable_rows", str(error))]), looks)

    def _with_tokens(
        self,
        key: str,
        plan: Plan,
        loaded: Mapping[Split, Loaded[Any]],
        looks: Mapping[Split, Look],
        configs: ModelConfigs,
        tokenizer: Any,
    ) -> AuditedRows:
        """The audit with tokens. Raises DataError if a row can't be tokenized."""
        source, shape = plan.train.data, shape_of(plan.train.objective.requires)
        template = template_of(configs, tokenizer, source.template)
        cut = Cutter(source.max_length, source.max_prompt_length)
        tokenized = {
            split: shape.tokenize(
                self._sample(rows.rows), template, cut, compare=len(rows.rows) if self._every_row else COMPARED
            )
            for split, rows in loaded.items()
        }
        rendered = source.template == "auto" and getattr(tokenizer, "chat_template", None) is not None
        both = {
            split: Look(looks[split].texts, look_at_tokens(tokens, report))
            for split, (tokens, report) in tokenized.items()
        }
        found = audit(
            source,
            both,
            positions=getattr(configs.config, "max_position_embeddings", None),
            vocabulary=getattr(configs.config.get_text_config(), "vocab_size", None),
            unchecked=list(_unchecked(loaded, both, rendered)),
        )
        return AuditedRows(key, found, both, list(self._show(loaded["train"].rows, shape, template, cut, tokenizer)))

    def _show(
        self, rows: Sequence[Any], shape: Shape, template: Template, cut: Cutter, tokenizer: Any
    ) -> Iterator[ShownRow]:
        """Yield the first rows that a run uses, as tokens."""
        tokenized = ((row, tokens) for row in rows for tokens in shape.tokenize([row], template, cut, compare=0)[0])
        for row, tokens in islice(tokenized, self._shown):
            yield show_row(tokens, tokenizer, row.place)

    def _sample(self, rows: list[Any]) -> list[Any]:
        """At most SAMPLE of the rows, in their order. Equal numbers of rows give the same places."""
        if self._every_row or len(rows) <= SAMPLE:
            return rows
        return [rows[i] for i in np.sort(np.random.default_rng(0).choice(len(rows), SAMPLE, replace=False))]

    def _tokenizer(self, model: ModelSource) -> tuple[ModelConfigs, Any]:
        if repr(model) not in self._tokenizers:
            self._tokenizers[repr(model)] = model.load_tokenizer()
        return self._tokenizers[repr(model)]


@dataclass(frozen=True)
class AuditedPoint:
    """What an audit found about one run: findings that depend on its settings, and its length.

    remarks: of the objective on its settings and its rows.
    facts:   rows and tokens per update, updates per epoch, epochs, and the loss at the start if no row changes it.
    """

    errors: Sequence[Finding]
    warnings: Sequence[Finding]
    remarks: Sequence[str]
    facts: Mapping[str, float | None]

    def record(self) -> dict[str, Any]:
        """The same in plain containers, for JSON."""
        return asdict(self)


def audit_point(train: Train, looks: Mapping[Split, Look]) -> AuditedPoint:
    """Findings and facts about one run.

    looks: split -> what it shows. Empty for rows that were not looked at.
    """
    objective = train.objective
    rows = looks.get("train", Look())
    texts = rows.texts
    counts = {"rows": rows.rows}
    if texts is not None and texts.good is not None:
        counts |= {"desirable": texts.good, "undesirable": texts.count - texts.good}
    return AuditedPoint(
        list(errors_for(objective.requires, looks)),
        list(_too_few_prompts(train.evaluation, looks)),
        [*_rounds(train), *(objective.data_warnings(counts) if looks else [])],
        _facts(train, rows),
    )


def _rounds(train: Train) -> Iterator[str]:
    if train.rounds:
        runs = counted(train.rounds, "run")
        yield f"rounds: {runs} on samples take the place of this run. Their ids are known once their rows are made"


def _facts(train: Train, rows: Look) -> dict[str, float | None]:
    trainer, online = train.trainer, train.objective.requires.online
    # a batch of rollouts is used for several passes
    per_update = trainer.batch_size / (train.rollout.epochs if online else 1)
    known = rows.rows > 0
    updates = train.steps(rows.rows) if known or not trainer.max_epochs else None
    tokens = rows.tokens if not online else None  # the answers of online objectives are not sampled yet
    return {
        "rows_per_update": per_update,
        "updates": updates,
        "updates_per_epoch": rows.rows / per_update if known else None,
        "epochs": updates * per_update / rows.rows if updates is not None and known else None,
        "tokens_per_update": per_update * tokens.per_row if tokens else None,
        "loss_at_start": train.objective.loss_at_reference,
    }


def _too_few_prompts(evaluation: RunEvaluation, looks: Mapping[Split, Look]) -> Iterator[Finding]:
    """A warning if an evaluation asks for more held-out prompts than there are."""
    texts = looks.get("eval", Look()).texts
    asked = evaluation.at_end or evaluation.every or evaluation.prompts != RunEvaluation().prompts
    if texts is None or evaluation.questions or not asked:
        return
    there = count_different(texts.prompts)
    if there < evaluation.prompts:
        held_out = f"{counted(there, 'different prompt')} {'is' if there == 1 else 'are'} held out"
        text = f"evaluation.prompts={evaluation.prompts}, but only {held_out}"
        yield Finding("few_held_out", text, "eval", there, there / evaluation.prompts, f"evaluation.prompts={there}")


def _swapped_scores(scores: Sequence[tuple[float, float]]) -> Iterator[Finding]:
    """A warning if most chosen answers have a lower score than the rejected ones.

    scores: those of the chosen and the rejected answer of each row.
    """
    lower = sum(chosen < rejected for chosen, rejected in scores)
    if 2 * lower > len(scores):
        share = lower / len(scores)
        text = f"{lower} of {len(scores)} training rows ({share:.1%}) have a score_chosen below their score_rejected: "
        cure = "'data.columns={chosen: rejected, rejected: chosen}', if they are"
        yield Finding("swapped_scores", f"{text}chosen and rejected are probably swapped", "train", lower, share, cure)


def _texts_of(plan: Plan) -> dict[Split, Loaded[Any]]:
    source, shape = plan.train.data, shape_of(plan.train.objective.requires)
    return {split: read_rows(shape, source, split, _no_reference)[0] for split in _SPLITS}


def _no_reference(world: World) -> Any:
    raise ValueError("rows that are sampled from the reference can't be audited before it is loaded")


def _unchecked(loaded: Mapping[Split, Loaded[Any]], looks: Mapping[Split, Look], rendered: bool) -> Iterator[str]:
    """What was not looked at, but would be with `--rows all`.

    rendered: whether a chat template renders the rows.
    """
    for split, look in looks.items():
        tokens, rows = look.tokens, len(loaded[split].rows)
        if tokens is not None and tokens.rows < rows:
            yield f"the tokens of {rows - tokens.rows} of {rows} {split} rows; --rows all looks at them too"
        if tokens is not None and rendered and tokens.compared < tokens.rows:
            left = f"{tokens.rows - tokens.compared} of {tokens.rows} {split} rows"
            yield f"the ids of {left} against the tokenizer's own rendering; --rows all compares them too"


def first_model(plan: Plan) -> ModelSource:
    """The model source whose tokenizer a run uses: that of the first of its parents."""
    return plan.train.model if plan.parent is None else first_model(plan.parent)
