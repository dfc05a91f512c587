"""Base of callbacks: dataclasses of settings that build a Lightning callback for a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from alignlab.checks import Checked


@dataclass(kw_only=True)
class Callback(Checked, ABC):
    """Base of all callbacks. They count in the id of a run, because a callback can change what is trained.

    The callbacks of a run are called before its metrics are written. After an update, `pl_module.last_metrics` is the
    row of metrics of that update; it is empty if the update is not logged. A callback may add numbers to it, under
    names that have a definition in tracking/metrics.py.
    """

    @abstractmethod
    def build(self) -> Any:
        """A `lightning.pytorch.Callback`. If it has a state, its `state_dict` is saved with the training state."""
