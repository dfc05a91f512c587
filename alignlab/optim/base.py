"""What an optimizer is: a dataclass of hyper-parameters that builds a torch optimizer and its schedule."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from alignlab.checks import Checked, at_least, one_of, positive
from alignlab.errors import Problem

SCHEDULES = ("constant", "linear", "cosine")


@dataclass(kw_only=True)
class Optim(Checked, ABC):
    """Base of all optimizers.

    lr:           peak learning rate.
    weight_decay: decoupled where the optimizer decouples it.
    schedule:     after the warm-up: constant, or linear or cosine towards 0, reached one step after the last.
    warmup_steps: linear from 0 to lr over this many steps.
    """

    lr: float
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup_steps: int = 0

    # What `update` keeps of every weight, by torch's names; None where there is no `update`, as where state is rounded.
    moments: ClassVar[tuple[str, ...] | None] = None

    def problems(self) -> Iterator[Problem]:
        yield from positive("lr", self.lr, example=1e-4, hint="peak learning rate")
        yield from at_least("weight_decay", self.weight_decay, 0, example=0.0)
        yield from one_of("schedule", self.schedule, SCHEDULES)
        yield from at_least("warmup_steps", self.warmup_steps, 0, example=0)

    def missing(self) -> Iterator[Problem]:
        """Packages that are not there. Looked at before anything is loaded."""
        return iter(())

    @abstractmethod
    def build(self, parameters: Any) -> Any:
        """A torch optimizer over the parameters, at the peak learning rate."""

    def update(
        self,
        weights: torch.Tensor,
        gradient: torch.Tensor,
        moments: dict[str, torch.Tensor],
        rate: float | torch.Tensor,
        step: int,
    ) -> torch.Tensor:
        """[P, D] weights of P models after update `step` (from 1), as torch's optimizer computes them; `moments` are
        changed in place. `rate` and the numbers of this optimizer may be [P, 1] tensors in float64.
        """
        raise NotImplementedError(f"{type(self).__name__} trains one model at a time")

    def factor(self, step: int, steps: int) -> float:
        """Share of the peak learning rate at update `step` (from 0) of `steps`."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.schedule == "constant":
            return 1.0
        progress = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        return 1.0 - progress if self.schedule == "linear" else (1.0 + math.cos(math.pi * progress)) / 2


def like(number: float | torch.Tensor, weights: torch.Tensor) -> float | torch.Tensor:
    """A number, or the models' own numbers, for arithmetic with `weights` that keeps their dtype."""
    return number.to(weights) if isinstance(number, torch.Tensor) else number
