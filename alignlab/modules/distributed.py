"""Collective operations over the processes that share a global batch. With one process they do nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch

from alignlab.models.sharding import Sharding
from alignlab.types import join, map_tensors

Item = TypeVar("Item")


def sharding_of(trainer: pl.Trainer) -> Sharding | None:
    """The strategy, if each process keeps a part of what is trained."""
    return trainer.strategy if isinstance(trainer.strategy, Sharding) else None


def decided(trainer: pl.Trainer, value: Item) -> Item:
    """The value that the first process has, in all processes.

    Clocks, signals and files differ between processes. What depends on them is decided by the first one.
    """
    return value if trainer.world_size == 1 else trainer.strategy.broadcast(value)


def share(trainer: pl.Trainer, rows: Sequence[Item]) -> list[Item]:
    """This process's share of rows that all processes have. Each row is in exactly one share."""
    return list(rows[trainer.global_rank :: trainer.world_size])


def whole(trainer: pl.Trainer, shares: Sequence[Item]) -> list[Item]:
    """The rows of which `shares` is this process's share, in their order, in all processes."""
    parts = of_all(trainer, list(shares))
    return [parts[i % len(parts)][i // len(parts)] for i in range(sum(map(len, parts)))]


def total(trainer: pl.Trainer, value: float) -> float:
    """A number summed over all processes."""
    return sum(of_all(trainer, value))


def rows_before(trainer: pl.Trainer, own: int) -> int:
    """Number of rows of all processes with a lower rank. `own` is the number of this process."""
    return sum(of_all(trainer, own)[: trainer.global_rank])


def gather(trainer: pl.Trainer, values: Sequence[Any]) -> Any:
    """Join the values of micro-batches (log-probabilities, rewards) of all processes into one batch.

    The rows are ordered by rank. Only this process's own rows have a gradient. A process may have no rows.
    """
    own = join(list(values)) if values else None
    if trainer.world_size == 1:
        return own
    device = trainer.strategy.root_device
    gathered = of_all(trainer, None if own is None else map_tensors(own, lambda tensor: tensor.detach().cpu()))
    parts = [None if part is None else map_tensors(part, lambda tensor: tensor.to(device)) for part in gathered]
    parts[trainer.global_rank] = own
    return join([part for part in parts if part is not None])


def without_sync(trainer: pl.Trainer) -> Any:
    """A context in which a backward pass does not synchronise gradients. The last micro-batch does that for all."""
    no_sync = getattr(trainer.strategy.model, "no_sync", None)
    return no_sync() if no_sync else nullcontext()


def of_all(trainer: pl.Trainer, value: Any) -> list[Any]:
    """The value of every process, by rank."""
    if trainer.world_size == 1:
        return [value]
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, value)
    return gathered
