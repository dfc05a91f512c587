"""Sampled answers to train on, as rows that can be split into micro-batches and saved in a checkpoint."""

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
    """A prompt with K sampled answers as token ids, and numbers for each token of them.

    index:         index of the prompt's row in the data.
    known:         for each answer [4, T_i]: log-probability at sampling (nats), advantage, return, value. The list is
                   empty before they are computed.
    demonstration: the data's own answer, if the objective also trains on it.
    """

    index: int
    prompt: list[int]
    completions: list[list[int]]
    known: list[Tensor] = field(default_factory=list)
    demonstration: list[int] | None = None

    def answers(self) -> list[PromptAndAnswer]:
        """All answers of this row that go through the model."""
        own = [(self.prompt, self.demonstration)] if self.demonstration is not None else []
        return [*((self.prompt, completion) for completion in self.completions), *own]


@dataclass(frozen=True, eq=False)
class RolloutBatch(Batch):
    """B answers as B rows. Answers to one prompt are neighbours.

    known:          [B, T, 4] numbers of `RolloutTokens.known`, 0 off the answers. T = 0 before they are computed.
    tables:         the same as [4, T_i] per answer, on the CPU; `known` was made from them.
    asked:          int64[B], index of the answer's prompt within the batch.
    demonstrations: the data's own answer to each prompt, or None.
    """

    known: Tensor
    tables: Sequence[Tensor]
    asked: Tensor
    demonstrations: Rows | None

    def learn(self, logps: Tensor) -> None:
        """Replace the log-probabilities at sampling by `logps` [B, T] (nats), in `tables`."""
        for table, row in zip(self.tables, logps.float().cpu(), strict=True):
            table[0] = row[: table.shape[1]]


def collate_rollouts(rows: Sequence[RolloutTokens], layout: Layout = PLAIN) -> RolloutBatch:
    """A batch of P prompts with K answers each: P K rows."""
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
    """Lists of numbers, one per token of each answer -> [N, T] float32, 0 off the answers."""
    return pad_sequence([torch.tensor(row, dtype=torch.float32) for row in values], batch_first=True)
