"""The gradient of the mean loss of a global batch, accumulated over micro-batches and processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from alignlab.errors import ObjectiveError
from alignlab.modules.distributed import gather, rows_before, total, without_sync
from alignlab.objectives.base import Objective
from alignlab.types import map_tensors

Made = TypeVar("Made")


class Differentiable(Protocol):
    """What a module provides so that its gradient can be computed (see AlignmentModule)."""

    trainer: Any
    objective: Objective
    seed: int

    def run(self, compute: Callable[..., Made], *args: Any) -> Made: ...
    @property
    def global_step(self) -> int: ...
    def with_gradient(self, batch: Any) -> Any: ...
    def compute_logps(self, batch: Any, mean_count: float) -> Any: ...
    def compute_without_grad(self, batch: Any, mean_count: float) -> Any: ...
    def attach_without_grad(self, values: Any, beside: Any) -> Any: ...
    def finiteness_check(self, values: Any) -> Tensor: ...
    def with_state(self, values: Any, *, update: bool) -> Any: ...
    def mean_count(self, batches: Sequence[Any]) -> float: ...
    def raise_if_not_finite(self, numbers: Tensor, index: Tensor, values: Any = None) -> None: ...
    def manual_backward(self, loss: Tensor) -> None: ...


def backward(module: Differentiable, micro_batches: list[Any], spare: list[Any]) -> Any:
    """Compute the gradients of a global batch's mean loss. Returns the values of the whole batch.

    spare: further micro-batches, whose gradient counts as 0. The other processes need their passes.
    """
    mean_count, own = module.mean_count(micro_batches), len(micro_batches)
    seen = [
        _with_step_seed(module, i, module.compute_without_grad, micro, mean_count)
        for i, micro in enumerate([*micro_batches, *spare])
    ]
    beside = None if seen[0] is None else gather(module.trainer, seen[:own])
    split = own > 1 or module.trainer.world_size > 1
    if split and module.objective.requires.couples_batch:
        return _coupled_micro_batches(module, micro_batches, spare, mean_count, beside)
    return _each_micro_batch(module, micro_batches, spare, mean_count, beside)


def _each_micro_batch(
    module: Differentiable, micro_batches: Sequence[Any], spare: Sequence[Any], mean_count: float, beside: Any
) -> Any:
    """Compute the gradients of a loss that is a mean over rows, one micro-batch at a time.

    Returns the values of the whole batch.
    """
    # Lightning averages the gradients of the processes, hence the factor world_size.
    share = module.trainer.world_size / total(module.trainer, sum(map(len, micro_batches)))
    seen, last = [], len(micro_batches) + len(spare) - 1
    for i, micro in enumerate(micro_batches):
        with nullcontext() if i == last else without_sync(module.trainer):
            value = _finite_values(module, i, micro, mean_count)
            loss = module.objective(module.with_state(module.attach_without_grad(value, beside), update=True))
            check_one_number_each(module.objective, loss, len(micro.index))
            module.raise_if_not_finite(loss, micro.index)
            module.manual_backward(loss.sum() * share)
        seen.append(map_tensors(value, torch.Tensor.detach))
    for i, micro in enumerate(spare, start=len(micro_batches)):
        module.manual_backward(_no_gradient(_finite_values(module, i, micro, mean_count)))
    return module.with_state(module.attach_without_grad(gather(module.trainer, seen), beside), update=False)


def check_one_number_each(objective: Objective, loss: Tensor, rows: int) -> None:
    """Raise ObjectiveError unless the loss is one number for each row. A mean over rows would be divided twice."""
    if loss.shape != (rows,):
        raise ObjectiveError(
            f"the objective {type(objective).__name__} returned a loss of shape {tuple(loss.shape)}; it must return "
            f"one number for each row, here ({rows},)\n  type: alignlab test-plugin <its package or folder>"
        )


def _coupled_micro_batches(
    module: Differentiable, micro_batches: Sequence[Any], spare: Sequence[Any], mean_count: float, beside: Any
) -> Any:
    """Compute the gradients of a loss in which rows depend on each other. Returns the values of the whole batch.

    Gao et al. 2021, https://arxiv.org/abs/2101.06983, section 3.2. The result is exact and costs one more forward:

    1. A pass without gradient computes the values of every micro-batch.
    2. The loss of the whole batch is differentiated with respect to these values.
    3. A second pass propagates these derivatives to the parameters.
    """
    with torch.no_grad():
        seen = [_finite_values(module, i, micro, mean_count) for i, micro in enumerate([*micro_batches, *spare])]
    own = [map_tensors(value, _leaf) for value in seen[: len(micro_batches)]]
    whole = module.with_state(module.attach_without_grad(gather(module.trainer, own), beside), update=True)
    loss = module.objective(whole)
    index = torch.cat([micro.index for micro in micro_batches]) if micro_batches else torch.empty(0)
    check_one_number_each(module.objective, loss, int(total(module.trainer, len(index))))
    start = rows_before(module.trainer, len(index))
    module.raise_if_not_finite(loss[start : start + len(index)], index)
    if micro_batches:
        loss.mean().backward()
    last = len(seen) - 1
    for i, (micro, leaves) in enumerate(zip(micro_batches, own, strict=True)):
        with nullcontext() if i == last else without_sync(module.trainer):
            carried = _surrogate_dot(_finite_values(module, i, micro, mean_count), leaves)
            module.manual_backward(torch.stack(carried).sum() * module.trainer.world_size)
    for i, micro in enumerate(spare, start=len(micro_batches)):
        module.manual_backward(_no_gradient(_finite_values(module, i, micro, mean_count)))
    return map_tensors(whole, torch.Tensor.detach)


def clip_and_update(optimizer: Any, limit: float) -> float:
    """Clip the gradient to the 2-norm `limit`, update the weights, and free it. Returns the 2-norm before clipping.

    The weights stay as they are if it is not finite.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def _finite_values(module: Differentiable, i: int, micro: Any, mean_count: float) -> Any:
    """`compute_logps` for the part of the i-th micro-batch that needs a gradient.

    Raises NonFiniteError or DivergedError if a value is not finite.
    """
    value = _with_step_seed(module, i, module.compute_logps, module.with_gradient(micro), mean_count)
    module.raise_if_not_finite(module.finiteness_check(value), micro.index, value)
    return value


def _with_step_seed(
    module: Differentiable, i: int, compute: Callable[[Any, float], Made], micro: Any, mean_count: float
) -> Made:
    """Call `compute` with random numbers that depend only on seed, step, process and micro-batch.

    So a resumed run has the same dropout masks, and so does a second pass over the same micro-batch.
    """
    place = (module.seed * 1_000_003 + module.global_step) * 1_009 + i
    _seed(place * module.trainer.world_size + module.trainer.global_rank)
    return module.run(compute, micro, mean_count)


def _seed(number: int) -> None:
    """`torch.manual_seed` for the devices in use. torch's own function records a traceback for each unused device."""
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(number)


def _leaf(value: Tensor) -> Tensor:
    """The tensor as a leaf that collects a gradient, if its type allows that."""
    return value.detach().requires_grad_(value.is_floating_point())


def _no_gradient(values: Any) -> Tensor:
    """A scalar whose backward pass reaches all weights that `values` depend on, with a gradient of 0."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        if tensor.requires_grad:
            found.append(0 * tensor.sum())
        return tensor

    map_tensors(values, keep)
    return torch.stack(found).sum()


def _surrogate_dot(values: Any, leaves: Any) -> list[Tensor]:
    """For every tensor with a gradient: the sum of the tensor times the gradient of its leaf."""
    dots: list[Tensor] = []
    for field in fields(values):
        value, leaf = getattr(values, field.name), getattr(leaves, field.name)
        if isinstance(value, Tensor) and value.requires_grad and leaf.grad is not None:
            dots.append((value * leaf.grad).sum())
        elif is_dataclass(value):
            dots += _surrogate_dot(value, leaf)
    return dots
