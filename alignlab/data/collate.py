"""Token ids to tensors. One layout for all: prompts padded on the left, answers on the right.

So the answers of a batch stand in the same columns, the projection to the vocabulary is needed only there, and padding
is known from lengths alone (never from token values: pad and end-of-sequence are often the same id).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from alignlab.data.fingerprint import row_key
from alignlab.data.tokenize import CompletionTokens, LabelledTokens, PairTokens, PromptAndAnswer, RankingTokens
from alignlab.types import map_tensors


@dataclass(frozen=True, eq=False)
class Rows:
    """R prompt + answer rows; prompts end at column P, answers begin there.

    ids:         int64[R, P + T], arbitrary ids on padding.
    attention:   int64[R, P + T], 1 on real tokens.
    positions:   int64[R, P + T], counted from the first real token.
    answer_mask: bool[R, T], True on answer tokens.
    keys:        one for each row, the same for the same prompt and answer (row_key).
    """

    ids: Tensor
    attention: Tensor
    positions: Tensor
    answer_mask: Tensor
    keys: tuple[bytes, ...]

    @property
    def answer_length(self) -> int:
        """T, columns that hold answers."""
        return self.answer_mask.shape[1]


@dataclass(frozen=True, eq=False)
class Batch:
    """B examples as R rows. `index` int64[B] is each example's place in its split."""

    rows: Rows
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    @property
    def imitated_tokens(self) -> int:
        """Tokens of the answers that an NLL would be taken of."""
        return int(self.rows.answer_mask.sum())

    @property
    def all_tokens(self) -> int:
        """Prompt and answer tokens that go through the model, padding left out."""
        return int(self.rows.attention.sum())


@dataclass(frozen=True, eq=False)
class PairBatch(Batch):
    """B pairs as 2B rows: the chosen answers first, then the rejected ones."""

    @property
    def imitated_tokens(self) -> int:
        return int(self.rows.answer_mask[: len(self)].sum())


@dataclass(frozen=True, eq=False)
class LabelledBatch(Batch):
    """B labelled answers. desirable: bool[B]; mismatched: B rows with other rows' answers, or None."""

    desirable: Tensor
    mismatched: Rows | None


@dataclass(frozen=True, eq=False)
class RankingBatch(Batch):
    """B prompts with up to K answers each, as one row an answer, example by example.

    mask:   bool[B, K], True where there is an answer.
    grades: float32[B, K].
    margin: float32[B], NaN where a row has none.
    """

    mask: Tensor
    grades: Tensor
    margin: Tensor


Moved = TypeVar("Moved", bound=Batch | Rows)


def to_device(batch: Moved, device: torch.device) -> Moved:
    """The same batch with every tensor on `device`."""
    return map_tensors(batch, lambda tensor: tensor.to(device))


def collate_rows(answers: Sequence[PromptAndAnswer]) -> Rows:
    """Pad R prompts and answers into one table. Raises ValueError naming rows without an answer token."""
    empty = [i for i, (_, answer) in enumerate(answers) if not answer]
    if empty:
        raise ValueError(f"answers without a token in rows {empty}")
    p = max(len(prompt) for prompt, _ in answers)
    t = max(len(answer) for _, answer in answers)
    ids = torch.zeros(len(answers), p + t, dtype=torch.int64)
    attention = torch.zeros_like(ids)
    for row, (prompt, answer) in enumerate(answers):
        start, end = p - len(prompt), p + len(answer)
        ids[row, start:end] = torch.tensor([*prompt, *answer])
        attention[row, start:end] = 1
    positions = (attention.cumsum(dim=1) - 1).clamp(min=0)
    keys = tuple(row_key(prompt, answer) for prompt, answer in answers)
    return Rows(ids, attention, positions, attention[:, p:].bool(), keys)


def collate_completions(rows: Sequence[CompletionTokens]) -> Batch:
    """B single answers -> B rows."""
    return Batch(collate_rows([(row.prompt, row.completion) for row in rows]), _places(rows))


def collate_pairs(pairs: Sequence[PairTokens]) -> PairBatch:
    """B pairs -> 2B rows."""
    chosen = [(pair.prompt, pair.chosen) for pair in pairs]
    rejected = [(pair.prompt, pair.rejected) for pair in pairs]
    return PairBatch(collate_rows([*chosen, *rejected]), _places(pairs))


def collate_labelled(rows: Sequence[LabelledTokens]) -> LabelledBatch:
    """B labelled answers -> B rows, and B more where the rows carry mismatched answers."""
    others = [(row.prompt, row.mismatched) for row in rows if row.mismatched is not None]
    return LabelledBatch(
        collate_rows([(row.prompt, row.completion) for row in rows]),
        _places(rows),
        torch.tensor([row.desirable for row in rows]),
        collate_rows(others) if others else None,
    )


def collate_rankings(rankings: Sequence[RankingTokens]) -> RankingBatch:
    """B rankings -> one row for each answer."""
    k = max(len(ranking.completions) for ranking in rankings)
    grades = torch.zeros(len(rankings), k)
    mask = torch.zeros(len(rankings), k, dtype=torch.bool)
    for i, ranking in enumerate(rankings):
        grades[i, : len(ranking.grades)] = torch.tensor(ranking.grades)
        mask[i, : len(ranking.grades)] = True
    margins = [float("nan") if ranking.margin is None else ranking.margin for ranking in rankings]
    return RankingBatch(
        collate_rows([answer for ranking in rankings for answer in ranking.answers()]),
        _places(rankings),
        mask,
        grades,
        torch.tensor(margins),
    )


def _places(rows: Sequence[CompletionTokens | PairTokens | LabelledTokens | RankingTokens]) -> Tensor:
    return torch.tensor([row.index for row in rows])
