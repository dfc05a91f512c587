"""The losses of all points of a vectorized fit, by one objective with a tensor of numbers if that gives the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from alignlab.models.tolerances import tolerance_of
from alignlab.modules.base import AlignmentModule
from alignlab.modules.gradient import check_one_number_each
from alignlab.types import map_tensors
from alignlab.vectorized.batch import VectorizedBatch
from alignlab.vectorized.policy import VectorizedPolicy

Made = TypeVar("Made")


class JointObjective:
    """Losses of P points. Whether one objective serves for all is found out with the first batch."""

    def __init__(self, members: Sequence[AlignmentModule], policy: VectorizedPolicy) -> None:
        self._members, self._policy = members, policy
        self._decided = False
        self._for_all: Any = None

    def losses(self, values: Any, batch: VectorizedBatch, failed: Sequence[int]) -> Tensor:
        """[P, B] loss of each example, by the numbers of its point. Points in `failed` keep their objective's state."""
        if not self._decided:
            self._for_all, self._decided = self._objective_for_all(values, batch), True
        if self._for_all is None:
            return self._one_by_one(values, batch, update=[p not in failed for p in range(len(self._members))])
        return self._for_all(values).view_as(batch.index)

    def _one_by_one(self, values: Any, batch: VectorizedBatch, *, update: Sequence[bool]) -> Tensor:
        losses = []
        for p, member in enumerate(self._members):
            own = member.with_state(examples_of(values, p, batch), update=update[p])
            losses.append(member.objective(own))
            check_one_number_each(member.objective, losses[-1], batch.index.shape[1])
        return torch.stack(losses)

    def _objective_for_all(self, values: Any, batch: VectorizedBatch) -> Any:
        """One objective whose numbers are tensors with an entry for each example. None if it gives other losses.

        It can only be the same if rows are independent and the numbers are only calculated with. This is tested with
        values like these, but away from the reference: losses and gradients must equal those of each point.
        """
        objectives = [member.objective for member in self._members]
        size, needs = batch.index.shape[1], objectives[0].requires
        other = [
            f.name for f in fields(objectives[0]) if _differ(objectives, f.name) and not _numeric(objectives, f.name)
        ]
        rows_depend = needs.couples_batch or needs.mismatched  # mismatched answers give one KL for a whole batch
        if rows_depend or objectives[0].initial_state() is not None or other:
            return None
        joint = with_numbers(objectives, lambda numbers: numbers.to(self._policy.weights).repeat_interleave(size))
        generator = torch.Generator().manual_seed(0)

        def moved(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            noise = torch.rand(tensor.shape, generator=generator).to(tensor)
            return (tensor.detach() - noise).requires_grad_()

        trial = map_tensors(values, moved)
        try:
            together = joint(trial).view_as(batch.index)
            alone = self._one_by_one(trial, batch, update=[False] * len(objectives))
            slopes = [_slopes(losses, trial) for losses in (together, alone)]
        except (RuntimeError, TypeError, ValueError):  # for example `if self.beta > 0` with a tensor
            return None
        same = self._same(together, alone) and all(self._same(a, b) for a, b in zip(*slopes, strict=True))
        return joint if same else None

    def _same(self, a: Tensor, b: Tensor) -> bool:
        """Whether two tensors differ only by rounding."""
        tolerance = tolerance_of(self._policy).rearranged
        return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def examples_of(values: Any, point: int, batch: VectorizedBatch) -> Any:
    """The examples of one point."""
    size = batch.index.shape[1]
    rows = slice(point * size, (point + 1) * size)
    return map_tensors(values, lambda tensor: tensor[rows])


def with_numbers(instances: Sequence[Made], spread: Callable[[Tensor], Tensor]) -> Made:
    """One instance for all. A field with different numbers becomes `spread` of their float64 tensor [P]."""
    made = copy.copy(instances[0])
    for field in fields(made):  # type: ignore[arg-type]
        if _differ(instances, field.name) and _numeric(instances, field.name):
            numbers = torch.tensor([getattr(one, field.name) for one in instances], dtype=torch.float64)
            setattr(made, field.name, spread(numbers))
    return made


def _differ(instances: Sequence[Any], name: str) -> bool:
    return any(getattr(one, name) != getattr(instances[0], name) for one in instances)


def _numeric(instances: Sequence[Any], name: str) -> bool:
    return all(type(getattr(one, name)) in (int, float) for one in instances)


def _slopes(losses: Tensor, values: Any) -> list[Tensor]:
    """Gradients of the summed losses with respect to all floating-point tensors of the values."""
    slopes = torch.autograd.grad(losses.sum(), _tensors(values), retain_graph=True, allow_unused=True)
    return [torch.zeros(()) if slope is None else slope for slope in slopes]


def _tensors(values: Any) -> list[Tensor]:
    parts = [getattr(values, field.name) for field in fields(values)]
    own = [part for part in parts if isinstance(part, Tensor) and part.requires_grad]
    return own + [tensor for part in parts if is_dataclass(part) for tensor in _tensors(part)]
