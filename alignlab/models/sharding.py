"""Sharding: each process keeps a part of what a run trains. `Sharding` is what modules need of a strategy that does it.

The functions are those of FSDP2 (Zhao et al. 2023, https://arxiv.org/abs/2304.11277) and of whole weights. With FSDP2,
the weights of a layer are gathered for its forward pass and its backward pass, and freed after each of them. So all
processes must make the same passes in the same order. Gradients are averaged over the processes, as DDP does.

Older versions of torch, with which other strategies work, lack what is imported inside the functions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor, nn

from alignlab.models.efficiency import layers
from alignlab.models.forward import backbone, innermost

Made = TypeVar("Made")


@runtime_checkable
class Sharding(Protocol):
    """A strategy of Lightning in which each process keeps a part of what a run trains: FSDP2, or DeepSpeed's ZeRO.

    Every pass through the weights needs all processes, so all of them make equally many passes.
    """

    divides_weights: bool  # or else only gradients and the optimizer's state

    def divide(self, root: nn.Module, models: Sequence[Any]) -> None:
        """Divide the weights of a module among the processes. `models` are the models in it."""

    def run(self, compute: Callable[..., Made], *args: Any) -> Made:
        """`compute(*args)`, which makes a pass through the weights."""

    def gathered(self, root: nn.Module) -> AbstractContextManager[Any]:
        """Inside the block each process holds all weights. All enter together, and may leave at different times."""

    def update(self, optimizer: Any, limit: float) -> float:
        """Clip the gradient to the 2-norm `limit`, update the weights, and free it. Returns the 2-norm before clipping.

        The weights stay as they are if it is not finite.
        """


def shard(root: nn.Module, models: Sequence[Any], device: torch.device) -> None:
    """Shard the weights of `root` over all processes, and move them to the device.

    A unit is gathered as a whole: each layer of the models, scalar heads, the other weights of the models with such a
    head, and whatever is left in `root`. The latter are the embeddings and the output layers of language models, which
    stay gathered from the forward pass of `root` until its backward pass. All trained weights of a unit need one dtype.

    models: Hugging Face models inside `root`, possibly with adapters, or modules with a scalar head and nothing else.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # Not the mesh of Lightning, whose connections have a time limit that a long evaluation could exceed.
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    units: list[nn.Module] = []
    for model in map(innermost, models):
        if not hasattr(model, "config"):  # a head that reads the hidden states of another model
            units += model.children()
            continue
        units += layers(model)
        if hasattr(model, "score"):
            units += [backbone(model), model.score]
    for unit in (*units, root):
        fully_shard(unit, mesh=mesh, mp_policy=policy)


@contextmanager
def gathered(root: nn.Module) -> Iterator[None]:
    """Inside the block each process holds all weights, so that it makes passes on its own.

    All processes enter the block together. They may leave it at different times.
    """
    from torch.distributed.fsdp import FSDPModule

    root(_nothing)  # the first pass through `root` makes it the root
    units = [unit for unit in root.modules() if isinstance(unit, FSDPModule)]
    inner = units[1:]
    for unit in units:
        unit.unshard()
    for unit in inner:
        unit.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for unit in inner:
            unit.set_reshard_after_forward(True, recurse=False)
        units[0].reset_iter_state()  # forgets the order of passes, which differs between processes


def whole(tensor: Tensor) -> Tensor:
    """The tensor without its gradient. If it is sharded, all processes must call this together."""
    if hasattr(tensor, "ds_id"):  # of DeepSpeed's ZeRO-3
        from deepspeed import zero

        with zero.GatheredParameters([tensor]):
            return tensor.detach().clone()
    tensor = tensor.detach()
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)  # of sharded ones only
    return gather() if gather else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor that all processes have, if `like` is sharded; else the tensor itself."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def without_values(model: Any) -> Any:
    """A copy of a model whose weights have names and shapes but no values (torch's meta device)."""
    empty = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, cast(dict[int, Any], empty))


def fill(model: Any, sharded: nn.Module, *, keep: bool) -> None:
    """Give a model from `without_values` the weights of its sharded original, on the CPU.

    keep: whether this process keeps them. All processes must call this together.
    """
    weights = {}
    for name, tensor in sharded.state_dict(keep_vars=True).items():
        value = whole(tensor)
        if keep:
            weights[name] = value.cpu()
    if keep:
        model.load_state_dict(weights, assign=True)
        innermost(model).tie_weights()
        model.to("cpu")  # buffers that no state holds


def _nothing() -> None:
    pass
