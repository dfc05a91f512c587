"""Collates examples into batches of tensors: rows (alignlab/data/layout.py) with labels, grades and margins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from alignlab.data.layout import PLAIN, Layout, Rows, collate_rows
from alignlab.data.tokenize import CompletionTokens, LabelledTokens, PairTokens, RankingTokens
from alignlab.types import map_tensors


@dataclass(frozen=True, eq=False)
class Batch:
    """B examples as R rows. `index` int64[B] is each example's place in its split."""

    rows: Rows
    index: torch.Tensor

    def __len__(self) -> int:
        return len(self.index)

    @property
    def imitated_tokens(self) -> int:
        """Number of tokens in the answers that are imitated; for pairs, in the chosen answers."""
        return int(self.rows.answer_mask.sum())

    @property
    def all_tokens(self) -> int:
        """Number of tokens in all prompts and answers, without padding. A prompt counts once for each answer."""
        return int(self.rows.lengths.sum())


@dataclass(frozen=True, eq=False)
class PairBatch(Batch):
    """B pairs as 2B rows: the chosen answers first, then the rejected ones."""

    @property
    def imitated_tokens(self) -> int:
        return int(self.rows.answer_mask[: len(self)].sum())


@dataclass(frozen=True, eq=False)
class LabelledBatch(Batch):
    """B labelled answers.

    desirable:  bool[B], True if the answer is labelled good.
    mismatched: B rows, each prompt with another row's answer, or None.
    """

    desirable: torch.Tensor
    mismatched: Rows | None


@dataclass(frozen=True, eq=False)
class RankingBatch(Batch):
    """B prompts with up to K answers each. Each answer is one row; the answers of an example stand together.

    mask:   bool[B, K], True where there is an answer.
    grades: float32[B, K] grades of the answers, larger is better; 0 where there is no answer.
    margin: float32[B] margins from the data, NaN if an example has none.
    """

    mask: torch.Tensor
    grades: torch.Tensor
    margin: torch.Tensor


Moved = TypeVar("Moved", bound=Batch | Rows)


def to_device(batch: Moved, device: torch.device) -> Moved:
    """The same batch with every tensor on `device`."""
    return map_tensors(batch, lambda tensor: tensor.to(device))


def collate_completions(rows: Sequence[CompletionTokens], layout: Layout = PLAIN) -> Batch:
    """B single answers -> B rows."""
    return Batch(collate_rows([(row.prompt, row.completion) for row in rows], layout), _places(rows))


def collate_pairs(pairs: Sequence[PairTokens], layout: Layout = PLAIN) -> PairBatch:
    """B pairs -> 2B rows."""
    chosen = [(pair.prompt, pair.chosen) for pair in pairs]
    rejected = [(pair.prompt, pair.rejected) for pair in pairs]
    return PairBatch(collate_rows([*chosen, *rejected], layout), _places(pairs))


def collate_labelled(rows: Sequence[LabelledTokens], layout: Layout = PLAIN) -> LabelledBatch:
    """B labelled answers -> B rows, and B more rows if the examples have mismatched answers."""
    others = [(row.prompt, row.mismatched) for row in rows if row.mismatched is not None]
    return LabelledBatch(
        collate_rows([(row.prompt, row.completion) for row in rows], layout),
        _places(rows),
        torch.tensor([row.desirable for row in rows]),
        collate_rows(others, layout) if others else None,
    )


def collate_rankings(rankings: Sequence[RankingTokens], layout: Layout = PLAIN) -> RankingBatch:
    """B rankings -> one row for each answer."""
    k = max(len(ranking.completions) for ranking in rankings)
    grades = torch.zeros(len(rankings), k)
    mask = torch.zeros(len(rankings), k, dtype=torch.bool)
    for i, ranking in enumerate(rankings):
        grades[i, : len(ranking.grades)] = torch.tensor(ranking.grades)
        mask[i, : len(ranking.grades)] = True
    margins = [float("nan") if ranking.margin is None else ranking.margin for ranking in rankings]
    return RankingBatch(
        collate_rows([answer for ranking in rankings for answer in ranking.answers()], layout),
        _places(rankings),
        mask,
        grades,
        torch.tensor(margins),
    )


def _places(rows: Sequence[CompletionTokens | PairTokens | LabelledTokens | RankingTokens]) -> torch.Tensor:
    return torch.tensor([row.index for row in rows])
