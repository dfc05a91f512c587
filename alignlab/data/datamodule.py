"""Rows for Lightning: what a step trains on is a pure function of (rows, seed, step)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import lightning.pytorch as pl
import numpy as np
from numpy.typing import NDArray

from alignlab.data.layout import portions

Item = TypeVar("Item")

# Rows of a global batch -> the same rows, each with what it needs from the others.
Couple = Callable[[Sequence[Any]], Sequence[Any]]


def batch_indices(rows: int, batch_size: int, seed: int, step: int) -> NDArray[np.int64]:
    """Rows of global batch `step`: the epochs' permutations laid end to end, cut every `batch_size` rows."""
    start = step * batch_size
    epochs = range(start // rows, (start + batch_size - 1) // rows + 1)
    order = np.concatenate([np.random.default_rng([seed, epoch]).permutation(rows) for epoch in epochs])
    offset = start - epochs.start * rows
    return order[offset : offset + batch_size]


def rows_used(rows: int, batch_size: int, seed: int, steps: int) -> list[int]:
    """Rows that a run of `steps` updates sees at least once, in order of their places."""
    if steps * batch_size >= rows:  # the first epoch sees every row
        return list(range(rows))
    return sorted({int(i) for step in range(steps) for i in batch_indices(rows, batch_size, seed, step)})


def rows_of_run(rows: Sequence[Item], batch_size: int, seed: int, steps: int, couple: Couple | None) -> Sequence[Item]:
    """All that a run of `steps` updates trains on, as it will see it."""
    if couple is None:
        return [rows[i] for i in rows_used(len(rows), batch_size, seed, steps)]
    batches = (batch_indices(len(rows), batch_size, seed, step) for step in range(steps))
    return [row for indices in batches for row in couple([rows[i] for i in indices])]


@dataclass
class BatchStream(Generic[Item]):
    """Global batches of a run, each as a list of rows.

    A resumed run starts at the step where it stopped and sees the batches it would have seen. With several processes
    each takes every `world`-th row of the same global batch; `couple` sees the whole of it first, so that what it puts
    into a row from another one depends neither on the processes nor on the micro-batches.
    """

    rows: Sequence[Item]
    batch_size: int
    steps: int
    seed: int
    couple: Couple | None = None
    rank: int = 0
    world: int = 1
    start: int = field(default=0, init=False)

    def __len__(self) -> int:
        """All steps of the run: Lightning counts the batches before a resume as well."""
        return self.steps

    def __iter__(self) -> Iterator[list[Item]]:
        for step in range(self.start, self.steps):
            batch = [self.rows[i] for i in batch_indices(len(self.rows), self.batch_size, self.seed, step)]
            yield list((self.couple(batch) if self.couple else batch)[self.rank :: self.world])


@dataclass(frozen=True)
class MicroBatches:
    """How rows are cut into portions that go through the model at once, and made into tensors.

    rows:   most rows of a portion.
    tokens: most tokens of a portion, prompts counted for each row; a row that has more is a portion by itself.
    """

    collate: Callable[[Sequence[Any]], Any]
    rows: int
    tokens: int

    def of(self, rows: Sequence[Any]) -> Iterator[Any]:
        """Batches of rows, in order."""
        sizes = [sum(len(prompt) + len(answer) for prompt, answer in row.answers()) for row in rows]
        for part in portions(sizes, self.rows, self.tokens):
            yield self.collate(rows[part.start : part.stop])

    def halved(self, rows: int) -> MicroBatches:
        """Portions half as large, where `rows` are given at once."""
        return replace(self, rows=max(1, min(self.rows, rows) // 2))


class AlignmentData(pl.LightningDataModule):
    """Training stream and held-out rows of one run."""

    def __init__(
        self,
        train: Sequence[Any],
        held_out: Sequence[Any],
        *,
        batch_size: int,
        steps: int,
        seed: int,
        couple: Couple | None = None,
    ) -> None:
        super().__init__()
        self.train, self.held_out = train, held_out
        self.batch_size, self.steps, self.seed, self.couple = batch_size, steps, seed, couple
        self.start = 0

    def train_dataloader(self) -> BatchStream[Any]:
        assert self.trainer is not None
        stream = BatchStream(
            self.train,
            self.batch_size,
            self.steps,
            self.seed,
            self.couple,
            self.trainer.global_rank,
            self.trainer.world_size,
        )
        stream.start = self.start
        return stream

    def held_out_rows(self) -> list[Any]:
        """Every held-out row once; each process takes its share."""
        assert self.trainer is not None
        rows = self.couple(self.held_out) if self.couple else self.held_out
        return list(rows[self.trainer.global_rank :: self.trainer.world_size])
