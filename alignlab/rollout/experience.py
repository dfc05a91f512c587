"""Answers to learn from, as rows that can be cut into micro-batches and kept in a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from alignlab.data.collate import Batch
from alignlab.data.layout import PLAIN, Layout, Rows, collate_rows
from alignlab.data.tokenize import PromptAndAnswer


@dataclass(frozen=True)
class RolloutTokens:
    """A prompt with K answers as token ids, and what is known of every token of them.

    known:         of each answer [4, T_i]: log-probability when it was given (nats), advantage, return, value; empty
                   before they are known.
    demonstration: the data's own answer, where it is learnt from too.
    """

    index: int
    prompt: list[int]
    completions: list[list[int]]
    known: list[Tensor] = field(default_factory=list)
    demonstration: list[int] | None = None

    def answers(self) -> list[PromptAndAnswer]:
        """Everything of this row that goes through the model."""
        own = [(self.prompt, self.demonstration)] if self.demonstration is not None else []
        return [*((self.prompt, completion) for completion in self.completions), *own]


@dataclass(frozen=True, eq=False)
class RolloutBatch(Batch):
    """B answers as B rows, those to one prompt side by side.

    known:          [B, T, 4] as RolloutTokens has them, 0 off the answers; T = 0 where nothing is known yet.
    tables:         where `known` comes from: [4, T_i] of each answer, on the CPU.
    asked: int64[B], which of the batch's prompts an answer belongs to.
    demonstrations: for each prompt the data's own answer, or None.
    """

    known: Tensor
    tables: Sequence[Tensor]
    asked: Tensor
    demonstrations: Rows | None

    def learn(self, logps: Tensor) -> None:
        """Take [B, T] log-probabilities for those that the answers were given with."""
        for table, row in zip(self.tables, logps.float().cpu(), strict=True):
            table[0] = row[: table.shape[1]]


def collate_rollouts(rows: Sequence[RolloutTokens], layout: Layout = PLAIN) -> RolloutBatch:
    """P prompts with K answers each -> P K rows."""
    index = torch.tensor([row.index for row in rows for _ in row.completions])
    tables = [table for row in rows for table in row.known]
    shown = [(row.prompt, row.demonstration) for row in rows if row.demonstration is not None]
    return RolloutBatch(
        collate_rows([(row.prompt, completion) for row in rows for completion in row.completions], layout),
        index,
        pad_sequence([table.T for table in tables], batch_first=True) if tables else torch.zeros(len(index), 0, 4),
        tables,
        torch.tensor([place for place, row in enumerate(rows) for _ in row.completions]),
        collate_rows(shown, layout) if shown else None,
    )


def table(values: Sequence[Sequence[float]]) -> Tensor:
    """Numbers of each answer's tokens -> [N, T] float32, 0 off the answers."""
    return pad_sequence([torch.tensor(row, dtype=torch.float32) for row in values], batch_first=True)
