"""Rows for Lightning: what a step trains on is a pure function of (rows, seed, step)."""

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
    """Global batches of a run, each as a list of rows.

    A resumed run starts at the step where it stopped and sees the batches it would have seen. With several processes
    each takes every `world`-th row of the same global batch. `batch_transform` is applied to the whole global batch
    first, so that its result depends neither on the number of processes nor on the micro-batches. Each batch serves
    for `repeats` steps.
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
        """All steps of the run: Lightning counts the batches before a resume as well."""
        return self.steps

    def __iter__(self) -> Iterator[list[Item]]:
        for step in range(self.start, self.steps):
            place = step // self.repeats
            indices = batch_indices(len(self.rows), self.batch_size, self.seed, place, self.sampling)
            batch = [self.rows[i] for i in indices]
            yield list((self.batch_transform(batch) if self.batch_transform else batch)[self.rank :: self.world])


@dataclass(frozen=True)
class MicroBatches:
    """How rows are cut into portions that go through the model at once, and made into tensors.

    rows:   most rows of a portion.
    tokens: most tokens of a portion, prompts counted for each answer; a row that has more is a portion by itself.
    """

    collate: Callable[[Sequence[Any]], Any]
    rows: int
    tokens: int

    def of(self, rows: Sequence[Any]) -> Iterator[Any]:
        """Batches of rows, in order."""
        for part in self.split_by_budget(rows):
            yield self.collate(rows[part.start : part.stop])

    def split_by_budget(self, rows: Sequence[Any]) -> Iterator[range]:
        """Which rows go through the model at once."""
        sizes = [sum(len(prompt) + len(answer) for prompt, answer in row.answers()) for row in rows]
        yield from split_by_budget(sizes, self.rows, self.tokens)

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
        batch_transform: BatchTransform | None = None,
        sampling: str = "epochs",
        repeats: int = 1,
    ) -> None:
        super().__init__()
        self.train, self.held_out = train, held_out
        self.batch_size, self.steps, self.seed, self.batch_transform = batch_size, steps, seed, batch_transform
        self.sampling, self.repeats = sampling, repeats
        self.start = 0

    def train_dataloader(self) -> BatchStream[Any]:
        assert self.trainer is not None
        stream = BatchStream(
            self.train,
            self.batch_size,
            self.steps,
            self.seed,
            self.batch_transform,
            self.trainer.global_rank,
            self.trainer.world_size,
            self.sampling,
            self.repeats,
        )
        stream.start = self.start
        return stream

    def held_out_rows(self) -> list[Any]:
        """Every held-out row once; each process takes its share."""
        assert self.trainer is not None
        rows = self.batch_transform(self.held_out) if self.batch_transform else self.held_out
        return list(rows[self.trainer.global_rank :: self.trainer.world_size])
