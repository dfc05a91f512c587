"""Time and memory optimisations. They do not change what is computed; some save memory and cost time."""

from __future__ import annotations

import os
import shutil
from typing import Any

from alignlab.models.forward import innermost

COMPILE = ("auto", "always", "never")

# Compiling pays on a CPU if a run has more operations than this: it takes up to a minute and then saves about a third.
_WORTH_COMPILING = 3e13

# A model with at most so many parameters is small.
SMALL = 1_000_000

# Compiling pays for small models from so many updates on: it takes about 15 s and then saves about 5 ms per update.
_UPDATES_WORTH_COMPILING = 8000


def checkpoint_layers(policy: Any) -> None:
    """Gradient checkpointing: keep only the inputs of the layers, and compute the rest again in the backward pass.

    Chen et al. 2016, https://arxiv.org/abs/1604.06174.
    """
    innermost(policy).gradient_checkpointing_enable({"use_reentrant": False})


def flush_denormals() -> None:
    """Treat numbers below 1e-38 as 0 on CPUs, which multiply them about ten times more slowly than others.

    All gradients of a pair become so small once the policy is sure of it (beta times its margin around 90 nats).
    Threads inherit the setting when they start, so call this before any work.
    """
    import torch

    torch.set_flush_denormal(True)


def cpp_compiler() -> str | None:
    """Path of the C++ compiler that torch.compile would call on a CPU; None if there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


def compiling_pays(policy: Any, tokens: int) -> bool:
    """Whether a run over so many tokens is long enough to make up for the compile time.

    This was measured only on CPUs with a C++ compiler. The answer is False on all other machines.
    """
    weights = [p for p in policy.parameters() if p.ndim > 1]
    if weights[0].device.type != "cpu" or cpp_compiler() is None:
        return False
    # Operations per weight and token: 2 forward, 2 for the gradient of the input, 2 for its own gradient if trained.
    work = sum((6 if p.requires_grad else 4) * p.numel() for p in weights) * tokens
    return work > _WORTH_COMPILING


def compiling_pays_for(updates: int) -> bool:
    """Whether compiling pays for so many updates of small models, done in sequence by one process without a GPU.

    Such updates are mostly overhead. Compiling saves some milliseconds of it per update.
    """
    return updates >= _UPDATES_WORTH_COMPILING and cpp_compiler() is not None


def compiler_fault() -> str | None:
    """The error that torch.compile raises for a single addition; None if it works."""
    import torch

    try:
        torch.compile(lambda x: x + 1)(torch.ones(8))
    except Exception as error:  # a compiler, its headers or its cache can fail in many ways
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return None


def compile_layers(policy: Any) -> None:
    """Compile the decoder layers with torch.compile. All layers share one compilation, for sequences of any length.

    A batch of one sequence is compiled apart from larger batches: torch.compile takes every size of 1 for a constant.
    """
    for layer in layers(innermost(policy)):
        layer.compile(dynamic=True)


def layers(model: Any) -> list[Any]:
    """The decoder's layers, which are the longest ModuleList of the model."""
    from torch.nn import ModuleList

    lists: list[list[Any]] = [list(module) for module in model.modules() if isinstance(module, ModuleList)]
    return max(lists, key=len)
