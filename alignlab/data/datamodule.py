"""Batches for Lightning. The batch of a step is a pure function of (rows, seed, step)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import lightning.pytorch as pl

from alignlab.data.layout import split_by_budget
from alignlab.data.order import BatchTransform, batch_indices

Item = TypeVar("Item")


@dataclass
class BatchStream(Generic[Item]):
    """Yields the global batch of each step, as a list of rows; with several processes, this process's share of it.

    rows:            training rows.
    batch_size:      rows per global batch.
    steps:           optimizer steps of the whole run.
    seed:            of the order of the rows.
    batch_transform: applied to the whole global batch before it is divided among processes. So its result depends
                     neither on the number of processes nor on the micro-batches. None applies nothing.
    rank, world:     process `rank` of `world` gets every `world`-th row of the global batch, starting at row `rank`.
    sampling:        as in `alignlab.data.order.indices_of`.
    repeats:         how many consecutive steps train on the same batch.
    start:           first step. A resumed run starts at the step where it stopped, and gets the same batches as a run
                     that was not interrupted.
    """

    rows: Sequence[Item]
    batch_size: int
    steps: int
    seed: int
    batch_transform: BatchTransform | None = None
    rank: int = 0
    world: int = 1
    sampling: str = "epochs"
    repeats: int = 1
    start: int = field(default=0, init=False)

    def __len__(self) -> int:
        """All steps of the run. Lightning also counts the batches before a resume."""
        return self.steps

    def __iter__(self) -> Iterator[list[Item]]:
        for step in range(self.start, self.steps):
            place = step // self.repeats
            indices = batch_indices(len(self.rows), self.batch_size, self.seed, place, self.sampling)
            batch = [self.rows[i] for i in indices]
            yield list((self.batch_transform(batch) if self.batch_transform else batch)[self.rank :: self.world])


@dataclass(frozen=True)
class MicroBatches:
    """Splits rows into micro-batches, which go through the model one at a time, and collates them into tensors.

    collate: makes a batch of tensors from rows.
    rows:    most rows in a micro-batch.
    tokens:  most tokens in a micro-batch. A prompt counts once for each of its answers. A row with more tokens than
             this is a micro-batch by itself.
    """

    collate: Callable[[Sequence[Any]], Any]
    rows: int
    tokens: int

    def of(self, rows: Sequence[Any]) -> Iterator[Any]:
        """Collated micro-batches of the rows, in order."""
        for part in self.split_by_budget(rows):
            yield self.collate(rows[part.start : part.stop])

    def split_by_budget(self, rows: Sequence[Any]) -> Iterator[range]:
        """Indices of the rows of each micro-batch, in order."""
        sizes = [sum(len(prompt) + len(answer) for prompt, answer in row.answers()) for row in rows]
        yield from split_by_budget(sizes, self.rows, self.tokens)

    def halved(self, rows: int) -> MicroBatches:
        """Micro-batches of half as many rows. `rows` is the number of rows that are passed to `of` at once."""
        return replace(self, rows=max(1, min(self.rows, rows) // 2))


class AlignmentData(pl.LightningDataModule):
    """Training batches and held-out rows of one run.

    divided: whether each process gets its share of them only. If not, it gets all of them, and divides them itself.
    The other arguments are those of `BatchStream`.
    """

    def __init__(
        self,
        train: Sequence[Any],
        held_out: Sequence[Any],
        *,
        batch_size: int,
        steps: int,
        seed: int,
        batch_transform: BatchTransform | None = None,
        sampling: str = "epochs",
        repeats: int = 1,
        divided: bool = True,
    ) -> None:
        super().__init__()
        self.train, self.held_out = train, held_out
        self.batch_size, self.steps, self.seed, self.batch_transform = batch_size, steps, seed, batch_transform
        self.sampling, self.repeats, self.divided = sampling, repeats, divided
        self.start = 0

    def train_dataloader(self) -> BatchStream[Any]:
        stream = BatchStream(
            self.train,
            self.batch_size,
            self.steps,
            self.seed,
            self.batch_transform,
            *self._place(),
            self.sampling,
            self.repeats,
        )
        stream.start = self.start
        return stream

    def held_out_rows(self) -> list[Any]:
        """This process's share of the held-out rows. Each row is in exactly one share, if they are divided."""
        rows = self.batch_transform(self.held_out) if self.batch_transform else self.held_out
        rank, world = self._place()
        return list(rows[rank::world])

    def _place(self) -> tuple[int, int]:
        """(number of this process, number of processes) that divide each batch."""
        assert self.trainer is not None
        return (self.trainer.global_rank, self.trainer.world_size) if self.divided else (0, 1)
