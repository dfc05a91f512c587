"""DistributedDataParallel, Li et al. 2020, https://arxiv.org/abs/2006.15704: each process holds the whole model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alignlab.strategies.base import PATIENCE, Strategy


@dataclass(kw_only=True)
class DDP(Strategy):
    """Each process holds the whole model and trains it on its share of each batch. Gradients are averaged.

    find_unused: also train models of which an update uses a part only, such as mixtures of experts. It costs time.
    """

    find_unused: bool = False

    def build(self) -> Any:
        from lightning.pytorch.strategies import DDPStrategy

        return DDPStrategy(timeout=PATIENCE, find_unused_parameters=self.find_unused)
