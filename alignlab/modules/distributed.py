"""Collective operations over the processes that share a global batch. With one process they do nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import lightning.pytorch as pl
import torch

from alignlab.types import join, map_tensors


def total(trainer: pl.Trainer, value: float) -> float:
    """A number summed over all processes."""
    return sum(_of_all(trainer, value))


def rows_before(trainer: pl.Trainer, own: int) -> int:
    """Number of rows of all processes with a lower rank. `own` is the number of this process."""
    return sum(_of_all(trainer, own)[: trainer.global_rank])


def gather(trainer: pl.Trainer, values: Sequence[Any]) -> Any:
    """Join the values of micro-batches (log-probabilities, rewards) of all processes into one batch.

    The rows are ordered by rank. Only this process's own rows have a gradient.
    """
    own = join(list(values))
    if trainer.world_size == 1:
        return own
    device = trainer.strategy.root_device
    gathered = _of_all(trainer, map_tensors(own, lambda tensor: tensor.detach().cpu()))
    parts = [map_tensors(part, lambda tensor: tensor.to(device)) for part in gathered]
    parts[trainer.global_rank] = own
    return join(parts)


def without_sync(trainer: pl.Trainer) -> Any:
    """A context in which a backward pass does not synchronise gradients. The last micro-batch does that for all."""
    no_sync = getattr(trainer.strategy.model, "no_sync", None)
    return no_sync() if no_sync else nullcontext()


def _of_all(trainer: pl.Trainer, value: Any) -> list[Any]:
    """The value of every process, by rank."""
    if trainer.world_size == 1:
        return [value]
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, value)
    return gathered
