"""What trades time against memory, or against the time to start, without changing what is computed."""

from __future__ import annotations

from typing import Any

from alignlab.models.forward import innermost


def checkpoint_layers(policy: Any) -> None:
    """Keep only what goes into each layer for the backward pass; the rest is computed again.

    Chen et al. 2016, https://arxiv.org/abs/1604.06174.
    """
    innermost(policy).gradient_checkpointing_enable({"use_reentrant": False})


def compile_layers(policy: Any) -> None:
    """Compile the decoder layers, one for all of them, for any length of rows (torch.compile)."""
    for layer in _layers(innermost(policy)):
        layer.compile(dynamic=True)


def _layers(model: Any) -> list[Any]:
    """The decoder's layers: the longest list of modules."""
    from torch.nn import ModuleList

    lists: list[list[Any]] = [list(module) for module in model.modules() if isinstance(module, ModuleList)]
    return max(lists, key=len)
