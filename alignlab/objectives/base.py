"""What every objective is: a plain dataclass of hyper-parameters with a pure `__call__`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from alignlab.checks import Checked
from alignlab.types import Requires


@dataclass
class Objective(Checked, ABC):
    """Base of all objectives. The dataclass is the config schema; `requires` decides loader, module and reference."""

    requires: ClassVar[Requires]

    @property
    def reward_scale(self) -> float:
        """What turns a log-ratio into the implicit reward that is logged (beta for the DPO family)."""
        return 1.0

    @property
    def loss_at_reference(self) -> float | None:
        """Loss of every example while the policy still equals its reference; None where there is no such constant."""
        return None

    @abstractmethod
    def __call__(self, batch: Any) -> Tensor:
        """[B] float32 loss of each example, to be minimised; the module divides the sum by `requires.normaliser`."""
