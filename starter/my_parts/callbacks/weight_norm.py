"""Logs the norm of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch

from alignlab.callbacks.base import Callback
from alignlab.checks import at_least
from alignlab.errors import Problem


class WeightNormCallback(pl.Callback):
    """Adds train/weights/norm to the metrics of every `every`-th update."""

    def __init__(self, every: int) -> None:
        self._every = every

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        if pl_module.last_metrics and trainer.global_step % self._every == 0:
            norms = [p.detach().norm() for p in pl_module.policy.parameters() if p.requires_grad]
            pl_module.last_metrics["train/weights/norm"] = float(torch.stack(norms).norm())


@dataclass(kw_only=True)
class WeightNorm(Callback):
    """The norm of the trained weights.

    every: updates between two values.
    """

    every: int = 1

    def problems(self) -> Iterator[Problem]:
        yield from at_least("every", self.every, 1, example=10)

    def build(self) -> WeightNormCallback:
        return WeightNormCallback(self.every)
