"""Batches for Lightning: what a step trains on is a pure function of (rows, seed, step)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import lightning.pytorch as pl
import numpy as np
from numpy.typing import NDArray

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
    """Global batches of a run, each as a list of micro-batches.

    A resumed run starts at the step where it stopped and sees the batches it would have seen. With several processes
    each takes every `world`-th row of the same global batch; `couple` sees the whole of it first, so that what it puts
    into a row from another one depends neither on the processes nor on the micro-batches.
    """

    rows: Sequence[Item]
    collate: Callable[[Sequence[Item]], Any]
    batch_size: int
    micro_batch_size: int
    steps: int
    seed: int
    couple: Couple | None = None
    rank: int = 0
    world: int = 1
    start: int = field(default=0, init=False)

    def __len__(self) -> int:
        """All steps of the run: Lightning counts the batches before a resume as well."""
        return self.steps

    def __iter__(self) -> Iterator[list[Any]]:
        for step in range(self.start, self.steps):
            batch = [self.rows[i] for i in batch_indices(len(self.rows), self.batch_size, self.seed, step)]
            mine = (self.couple(batch) if self.couple else batch)[self.rank :: self.world]
            yield list(micro_batches(mine, self.micro_batch_size, self.collate))


def micro_batches(rows: Sequence[Item], size: int, collate: Callable[[Sequence[Item]], Any]) -> Iterator[Any]:
    """Rows in order, `size` at a time."""
    for start in range(0, len(rows), size):
        yield collate(rows[start : start + size])


class AlignmentData(pl.LightningDataModule):
    """Training stream and held-out batches of one run."""

    def __init__(
        self,
        train: Sequence[Any],
        held_out: Sequence[Any],
        collate: Callable[[Sequence[Any]], Any],
        *,
        batch_size: int,
        micro_batch_size: int,
        steps: int,
        seed: int,
        couple: Couple | None = None,
    ) -> None:
        super().__init__()
        self.train, self.held_out, self.collate = train, held_out, collate
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size
        self.steps, self.seed, self.couple = steps, seed, couple
        self.start = 0

    def train_dataloader(self) -> BatchStream[Any]:
        assert self.trainer is not None
        stream = BatchStream(
            self.train,
            self.collate,
            self.batch_size,
            self.micro_batch_size,
            self.steps,
            self.seed,
            self.couple,
            self.trainer.global_rank,
            self.trainer.world_size,
        )
        stream.start = self.start
        return stream

    def held_out_batches(self) -> list[Any]:
        """Every held-out row once; each process takes its share."""
        assert self.trainer is not None
        rows = self.couple(self.held_out) if self.couple else self.held_out
        mine = rows[self.trainer.global_rank :: self.trainer.world_size]
        return list(micro_batches(mine, self.micro_batch_size, self.collate))
