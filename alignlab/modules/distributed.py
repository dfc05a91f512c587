"""What several processes that share a global batch tell each other; with one process, nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import lightning.pytorch as pl
import torch

from alignlab.types import join, map_tensors


def total(trainer: pl.Trainer, value: float) -> float:
    """A number summed over all processes."""
    return sum(_everyones(trainer, value))


def rows_before(trainer: pl.Trainer, mine: int) -> int:
    """How many rows the processes of lower rank hold, where this one holds `mine`."""
    return sum(_everyones(trainer, mine)[: trainer.global_rank])


def gather(trainer: pl.Trainer, values: Sequence[Any]) -> Any:
    """What was seen of the micro-batches (log-probabilities, rewards) as one batch, with that of all processes.

    Other processes' rows come without gradient; this process's rows stand after those of lower rank.
    """
    mine = join(list(values))
    if trainer.world_size == 1:
        return mine
    device = trainer.strategy.root_device
    everyones = _everyones(trainer, map_tensors(mine, lambda tensor: tensor.detach().cpu()))
    parts = [map_tensors(part, lambda tensor: tensor.to(device)) for part in everyones]
    parts[trainer.global_rank] = mine
    return join(parts)


def without_sync(trainer: pl.Trainer) -> Any:
    """A backward pass after which gradients are not exchanged yet: that is done at the last micro-batch."""
    no_sync = getattr(trainer.strategy.model, "no_sync", None)
    return no_sync() if no_sync else nullcontext()


def _everyones(trainer: pl.Trainer, value: Any) -> list[Any]:
    """The value of every process, by rank."""
    if trainer.world_size == 1:
        return [value]
    found: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(found, value)
    return found
