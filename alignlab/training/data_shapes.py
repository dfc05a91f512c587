"""Data shapes: how rows of each shape are read, tokenized and batched, and which module trains on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from alignlab.data.collate import collate_completions, collate_labelled, collate_pairs, collate_rankings
from alignlab.data.filters import read_split
from alignlab.data.layout import Layout
from alignlab.data.noise import with_noise
from alignlab.data.rows import Loaded, Split
from alignlab.data.sources.base import ReferenceTable, Source
from alignlab.data.tokenize import (
    CompletionTokens,
    LabelledTokens,
    PairTokens,
    PromptTokens,
    RankingTokens,
    Tokens,
    tokenize_completions,
    tokenize_labelled,
    tokenize_pairs,
    tokenize_prompts,
    tokenize_rankings,
)
from alignlab.modules.base import AlignmentModule
from alignlab.modules.online import GeneratedPairsModule, ImitationModule, PolicyGradientModule
from alignlab.modules.preference import PreferenceModule
from alignlab.modules.reward import RewardModule
from alignlab.modules.sft import SFTModule
from alignlab.modules.unpaired import UnpairedModule
from alignlab.rollout.experience import collate_rollouts
from alignlab.types import Requires


@dataclass(frozen=True)
class Shape:
    """The steps from source to module for one shape of data.

    read:     (source, split, reference) -> rows as text.
    tokenize: (rows, template, cutter) -> rows as token ids and the report of what was cut. `compare` is the number of
              rows that are compared with the tokenizer's own rendering.
    tokens:   class of the rows as token ids.
    collate:  (rows, layout) -> a batch of tensors.
    module:   class of the module that trains on these batches.
    count:    rows -> number of rows of each kind, for the objective's warnings about its data.
    """

    read: Callable[[Source, Split, ReferenceTable], Loaded[Any]]
    tokenize: Callable[..., tuple[Sequence[Tokens], Any]]
    tokens: type[Tokens]
    collate: Callable[[Any, Layout], Any]
    module: type[AlignmentModule]
    count: Callable[[Sequence[Any]], dict[str, int]] = lambda rows: {"rows": len(rows)}


def _count_labels(rows: Sequence[LabelledTokens]) -> dict[str, int]:
    good = sum(row.desirable for row in rows)
    return {"rows": len(rows), "desirable": good, "undesirable": len(rows) - good}


def shape_of(needs: Requires) -> Shape:
    """The shape of an objective's data. Online objectives read only prompts, and sample answers while they train."""
    return (ONLINE if needs.online else SHAPES)[needs.data]


def read_rows(shape: Shape, source: Source, split: Split, reference: ReferenceTable) -> tuple[Loaded[Any], int]:
    """(rows of a split after `data.drop`, for training also after `data.noise`; number of labels that were flipped)."""
    loaded = read_split(lambda part: shape.read(source, part, reference), split, source.drop)
    return with_noise(loaded, source.noise) if split == "train" else (loaded, 0)


def _online(collate: Callable[[Any, Layout], Any], module: type[AlignmentModule]) -> Shape:
    return Shape(
        lambda source, split, reference: source.completions(split), tokenize_prompts, PromptTokens, collate, module
    )


ONLINE = {
    "rollouts": _online(collate_rollouts, PolicyGradientModule),
    "pairs": _online(collate_pairs, GeneratedPairsModule),
    "completions": _online(collate_completions, ImitationModule),
}

SHAPES = {
    "completions": Shape(
        lambda source, split, reference: source.completions(split),
        tokenize_completions,
        CompletionTokens,
        collate_completions,
        SFTModule,
    ),
    "pairs": Shape(
        lambda source, split, reference: source.pairs(split, reference),
        tokenize_pairs,
        PairTokens,
        collate_pairs,
        PreferenceModule,
    ),
    "labelled": Shape(
        lambda source, split, reference: source.labelled(split, reference),
        tokenize_labelled,
        LabelledTokens,
        collate_labelled,
        UnpairedModule,
        _count_labels,
    ),
    "rankings": Shape(
        lambda source, split, reference: source.rankings(split, reference),
        tokenize_rankings,
        RankingTokens,
        collate_rankings,
        RewardModule,
    ),
}
