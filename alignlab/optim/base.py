"""Base of optimizers: dataclasses of hyper-parameters that build a torch optimizer and its schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from alignlab.checks import Checked, at_least, one_of, positive
from alignlab.discovery import classes_by_module
from alignlab.errors import Problem
from alignlab.optim.schedules.base import Schedule

SCHEDULES = "alignlab.optim.schedules"  # the package that holds them


@dataclass(kw_only=True)
class Optim(Checked, ABC):
    """Base of all optimizers.

    lr:           peak learning rate.
    weight_decay: decoupled from the gradient in AdamW, added to the gradient in RMSprop.
    schedule:     of the learning rate after the warm-up: constant, or linear or cosine decay, which would reach 0 one
                  step after the last step. Each is a file in alignlab/optim/schedules.
    warmup_steps: number of steps in which the learning rate rises linearly from 0 to lr.
    """

    lr: float
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup_steps: int = 0

    # Names, as in torch, of the state that `update` keeps for every weight. None if there is no `update`, so that the
    # optimizer can't train several runs as one model.
    moments: ClassVar[tuple[str, ...] | None] = None

    # Whether the optimizer can train weights of which each process holds a part (strategy=fsdp).
    works_on_parts: ClassVar[bool] = True

    def problems(self) -> Iterator[Problem]:
        yield from positive("lr", self.lr, example=1e-4, hint="peak learning rate")
        yield from at_least("weight_decay", self.weight_decay, 0, example=0.0)
        yield from one_of("schedule", self.schedule, schedules())
        yield from at_least("warmup_steps", self.warmup_steps, 0, example=0)

    def missing(self) -> Iterator[Problem]:
        """Yield a problem for each package that is not installed. This is checked before anything is loaded."""
        return iter(())

    def state_bytes(self, item: int) -> float:
        """Bytes that the optimizer keeps for a trained parameter of `item` bytes.

        Optimizers that do not name their moments count as having two.
        """
        return item * (2 if self.moments is None else len(self.moments))

    @abstractmethod
    def build(self, parameters: Any) -> Any:
        """A torch optimizer for the parameters, with the peak learning rate."""

    def update(
        self,
        weights: torch.Tensor,
        gradient: torch.Tensor,
        moments: dict[str, torch.Tensor],
        rate: float | torch.Tensor,
        step: int,
    ) -> torch.Tensor:
        """[P, D] weights of P models after update `step` (counted from 1), as torch's optimizer computes them.

        weights:  [P, D] before the update.
        gradient: [P, D].
        moments:  name -> [P, D]; changed in place.
        rate:     learning rate.
        `rate` and the fields of this optimizer may be float64 tensors [P, 1], with one value for each model.
        Raises NotImplementedError if this optimizer trains one model at a time.
        """
        raise NotImplementedError(f"{type(self).__name__} trains one model at a time")

    def factor(self, step: int, steps: int) -> float:
        """The learning rate of update `step` (counted from 0) of `steps`, as a share of the peak learning rate."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        progress = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        return float(schedules()[self.schedule]().factor(progress))


def schedules() -> dict[str, type[Schedule]]:
    """Name -> schedule, for those of alignlab and of plug-ins."""
    return classes_by_module(SCHEDULES, Schedule)


def like(number: float | torch.Tensor, weights: torch.Tensor) -> float | torch.Tensor:
    """A number, or one number per model as a tensor, converted so that arithmetic with `weights` keeps their dtype."""
    return number.to(weights) if isinstance(number, torch.Tensor) else number
