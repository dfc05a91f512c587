"""Lightning's strategy for sharded weights, with training states that a single process can read and has written."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.optim import Optimizer

from alignlab.models.sharding import shard_like, whole


class ShardedStrategy(ModelParallelStrategy):
    """The module shards its weights itself (`configure_model`).

    Training states have whole tensors, by the same names and places as in one process. The first process writes them.

    patience: how long a process waits for the others.
    """

    def __init__(self, patience: timedelta) -> None:
        super().__init__(save_distributed_checkpoint=False, timeout=patience)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Name -> whole tensor, of the weights that are trained; empty in processes that do not write."""
        assert self.lightning_module is not None
        found = {}
        for name, parameter in self.lightning_module.named_parameters():
            if parameter.requires_grad:
                tensor = whole(parameter)
                if self.is_global_zero:
                    found[name] = tensor.cpu()
        return found

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state with whole tensors, on the CPU; without tensors in processes that do not write."""
        state = optimizer.state_dict()
        of_weights: dict[int, dict[str, Any]] = {}
        for place, own in state["state"].items():
            for key, value in own.items():
                kept = whole(value) if isinstance(value, Tensor) else value
                if self.is_global_zero:
                    of_weights.setdefault(place, {})[key] = kept.cpu() if isinstance(kept, Tensor) else kept
        return {**state, "state": of_weights}

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=True)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        own = dict(self.lightning_module.named_parameters())
        with torch.no_grad():
            for name, tensor in checkpoint["state_dict"].items():
                own[name].copy_(shard_like(tensor, own[name]))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            of_weights = {
                place: {key: _part(value, weights[place]) for key, value in own.items()}
                for place, own in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": of_weights})


def _part(value: Any, weight: Tensor) -> Any:
    """This process's part of an optimizer's value for a weight. Values of another shape, as its step, stay whole."""
    return shard_like(value, weight) if isinstance(value, Tensor) and value.shape == weight.shape else value
