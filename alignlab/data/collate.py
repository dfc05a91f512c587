"""Token ids to tensors. One layout for all: prompts padded on the left, answers on the right.

So the answers of a batch stand in the same columns, the projection to the vocabulary is needed only there, and padding
is known from lengths alone (never from token values: pad and end-of-sequence are often the same id).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from alignlab.data.tokenize import CompletionTokens, PairTokens


@dataclass(frozen=True, eq=False)
class Rows:
    """R prompt + answer rows; prompts end at column P, answers begin there.

    ids:         int64[R, P + T], arbitrary ids on padding.
    attention:   int64[R, P + T], 1 on real tokens.
    positions:   int64[R, P + T], counted from the first real token.
    answer_mask: bool[R, T], True on answer tokens.
    """

    ids: Tensor
    attention: Tensor
    positions: Tensor
    answer_mask: Tensor

    @property
    def answer_length(self) -> int:
        """T, columns that hold answers."""
        return self.answer_mask.shape[1]


@dataclass(frozen=True, eq=False)
class CompletionBatch:
    """B single answers. `index` int64[B] is each example's place in its split."""

    rows: Rows
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    @property
    def answer_tokens(self) -> int:
        """Tokens that are learnt from."""
        return int(self.rows.answer_mask.sum())

    @property
    def all_tokens(self) -> int:
        """Prompt and answer tokens that go through the model, padding left out."""
        return int(self.rows.attention.sum())


@dataclass(frozen=True, eq=False)
class PairBatch(CompletionBatch):
    """B pairs as 2B rows: the chosen answers first, then the rejected ones."""


Batch = TypeVar("Batch", CompletionBatch, PairBatch, Rows)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch with every tensor on `device`."""
    moved: dict[str, Any] = {}
    for f in fields(batch):
        value = getattr(batch, f.name)
        if isinstance(value, Rows):
            moved[f.name] = to_device(value, device)
        elif isinstance(value, Tensor):
            moved[f.name] = value.to(device)
    return replace(batch, **moved)


def collate_rows(prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> Rows:
    """Pad R prompts and answers into one table. Raises ValueError naming rows without an answer token."""
    empty = [i for i, answer in enumerate(answers) if not answer]
    if empty:
        raise ValueError(f"answers without a token in rows {empty}")
    p, t = max(map(len, prompts)), max(map(len, answers))
    ids = torch.zeros(len(prompts), p + t, dtype=torch.int64)
    attention = torch.zeros_like(ids)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        start, end = p - len(prompt), p + len(answer)
        ids[row, start:end] = torch.tensor([*prompt, *answer])
        attention[row, start:end] = 1
    positions = (attention.cumsum(dim=1) - 1).clamp(min=0)
    return Rows(ids, attention, positions, attention[:, p:].bool())


def collate_pairs(pairs: Sequence[PairTokens]) -> PairBatch:
    """B pairs -> 2B rows."""
    prompts = [pair.prompt for pair in pairs] * 2
    answers = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    return PairBatch(collate_rows(prompts, answers), torch.tensor([pair.index for pair in pairs]))


def collate_completions(rows: Sequence[CompletionTokens]) -> CompletionBatch:
    """B single answers -> B rows."""
    return CompletionBatch(
        collate_rows([row.prompt for row in rows], [row.completion for row in rows]),
        torch.tensor([row.index for row in rows]),
    )
