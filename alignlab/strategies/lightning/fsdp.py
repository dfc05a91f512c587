"""FSDP2 by Lightning's strategy, with training states that any number of processes can resume from."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from alignlab.models.parts import FOLDER, divided, part_like, read_parts, save_part, with_parts
from alignlab.models.sharding import gathered, shard, shard_like, whole

Made = TypeVar("Made")


class FSDP2Strategy(ModelParallelStrategy):
    """Training states have whole tensors, by the same names and places as in one process. The first one writes them.
    With `in_parts`, each process writes the tensors that it holds (alignlab/models/parts.py).

    patience: how long a process waits for the others.
    """

    divides_weights = True

    def __init__(self, patience: timedelta, *, in_parts: bool) -> None:
        super().__init__(save_distributed_checkpoint=False, timeout=patience)
        self._in_parts = in_parts

    def divide(self, root: nn.Module, models: Sequence[Any]) -> None:
        shard(root, models, self.root_device)

    def run(self, compute: Callable[..., Made], *args: Any) -> Made:
        assert self.lightning_module is not None
        found: Made = self.lightning_module(compute, *args)
        return found

    def gathered(self, root: nn.Module) -> AbstractContextManager[None]:
        return gathered(root)

    def update(self, optimizer: Any, limit: float) -> float:
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        norm = whole(nn.utils.get_total_norm([p.grad for p in weights if p.grad is not None]))
        nn.utils.clip_grads_with_norm_(weights, limit, norm)
        if math.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(norm)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Name -> tensor, of the weights that are trained. Whole ones are only in the process that writes them."""
        assert self.lightning_module is not None
        found = {}
        for name, parameter in self.lightning_module.named_parameters():
            if parameter.requires_grad and self._in_parts:
                found[name] = parameter.detach()
            elif parameter.requires_grad:
                tensor = whole(parameter)
                if self.is_global_zero:
                    found[name] = tensor.cpu()
        return found

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state. Whole tensors are on the CPU, and only in the process that writes them."""
        state = optimizer.state_dict()
        if self._in_parts:
            return state
        of_weights: dict[int, dict[str, Any]] = {}
        for place, own in state["state"].items():
            for key, value in own.items():
                kept = whole(value) if isinstance(value, Tensor) else value
                if self.is_global_zero:
                    of_weights.setdefault(place, {})[key] = kept.cpu() if isinstance(kept, Tensor) else kept
        return {**state, "state": of_weights}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        if self._in_parts:
            folder = Path(filepath).parent / self.broadcast(f"{FOLDER}{uuid.uuid4().hex}")
            checkpoint, part = divided(checkpoint)
            save_part(part, folder, self.global_rank)
            checkpoint["parts"] = {"folder": folder.name, "count": self.world_size}
            self.barrier()  # the state names parts that are there
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        state = torch.load(checkpoint_path, weights_only=True, map_location="cpu", mmap=True)
        parts = read_parts(Path(checkpoint_path), state, verify=False)  # `updates_in` has verified them
        return with_parts(state, parts) if parts else state

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        own = dict(self.lightning_module.named_parameters())
        with torch.no_grad():
            for name, tensor in checkpoint["state_dict"].items():
                own[name].copy_(_part(tensor, own[name]))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            of_weights = {
                place: {key: _part(value, weights[place]) for key, value in own.items()}
                for place, own in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": of_weights})


def _part(value: Any, weight: Tensor) -> Any:
    """This process's part of a weight, or of an optimizer's value for it. Values of another shape stay whole."""
    if isinstance(value, list):  # in parts
        return part_like(value, weight)
    return shard_like(value, weight) if isinstance(value, Tensor) and value.shape == weight.shape else value
