"""Base of strategies: dataclasses of settings for how several processes, one for each device, train one model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from alignlab.checks import Checked
from alignlab.errors import Problem

# Process 0 may sample and judge for hours while the others wait for it. A process that ends is noticed at once anyway.
PATIENCE = timedelta(days=7)


@dataclass(kw_only=True)
class Strategy(Checked, ABC):
    """Base of all strategies. They do not count in the id of a run, because they change no result beyond rounding."""

    @property
    def shards_weights(self) -> bool:
        """Whether each process holds a part of each weight only."""
        return False

    @property
    def shards_optimizer(self) -> bool:
        """Whether each process holds a part of the optimizer's state only."""
        return self.shards_weights

    def missing(self) -> Iterator[Problem]:
        """Yield a problem for each package that is not installed. This is checked before anything is loaded."""
        return iter(())

    @abstractmethod
    def build(self) -> Any:
        """A `lightning.pytorch.strategies.Strategy` for several processes. A single process needs none."""
