"""What spares time or memory, some of it at the cost of the other, without changing what is computed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alignlab.models.forward import innermost

COMPILE = ("auto", "always", "never")

# Operations of a run above which compiling pays, on a CPU: it takes up to a minute, and then spares about a third.
_WORTH_COMPILING = 3e13

# Parameters up to which a model is small.
SMALL = 1_000_000

# Updates of small models above which it does: it takes some 15 s, and then spares some 5 ms of each.
_UPDATES_WORTH_COMPILING = 8000


@contextmanager
def one_thread_where_small(parameters: int | None) -> Iterator[None]:
    """Small models on one thread, however many there are: a second one is of little use to them, and where another
    process has a core too, two threads wait for each other, ten times as long as the work takes. Sums come out a
    little different with each number of threads, and this way every launcher's are the same.
    """
    import torch

    threads = torch.get_num_threads()
    if parameters is not None and parameters <= SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def checkpoint_layers(policy: Any) -> None:
    """Keep only what goes into each layer for the backward pass; the rest is computed again.

    Chen et al. 2016, https://arxiv.org/abs/1604.06174.
    """
    innermost(policy).gradient_checkpointing_enable({"use_reentrant": False})


def flush_denormals() -> None:
    """Take numbers below 1e-38 for 0 on CPUs, which multiply them some ten times slower than others.

    All gradients of a pair are such numbers once the policy is sure of it (beta times its margin around 90 nats).
    Threads that are started later do the same, so this comes before any work.
    """
    import torch

    torch.set_flush_denormal(True)


def cpp_compiler() -> str | None:
    """The C++ compiler that torch.compile would call on a CPU, where there is one."""
    return shutil.which(os.environ.get("CXX", "g++"))


def compiling_pays(policy: Any, tokens: int) -> bool:
    """Whether a run over so many tokens is long enough, on a CPU with a C++ compiler. Elsewhere it was not measured."""
    weights = [p for p in policy.parameters() if p.ndim > 1]
    if weights[0].device.type != "cpu" or cpp_compiler() is None:
        return False
    # Two operations a weight and token forward, two for the input's gradient, two for its own where it has one.
    work = sum((6 if p.requires_grad else 4) * p.numel() for p in weights) * tokens
    return work > _WORTH_COMPILING


def compiling_pays_for(updates: int) -> bool:
    """Whether so many updates of small models, one after the other in a process without a GPU, are worth it.

    They are mostly overhead, of which compiling spares some milliseconds each.
    """
    return updates >= _UPDATES_WORTH_COMPILING and cpp_compiler() is not None


def compiler_fault() -> str | None:
    """What goes wrong where torch.compile is tried on one addition; None where it works."""
    import torch

    try:
        torch.compile(lambda x: x + 1)(torch.ones(8))
    except Exception as error:  # whatever a compiler, its headers or its cache may lack
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return None


def compile_layers(policy: Any) -> None:
    """Compile the decoder layers, one for all of them, for any length of rows (torch.compile)."""
    for layer in _layers(innermost(policy)):
        layer.compile(dynamic=True)


def _layers(model: Any) -> list[Any]:
    """The decoder's layers: the longest list of modules."""
    from torch.nn import ModuleList

    lists: list[list[Any]] = [list(module) for module in model.modules() if isinstance(module, ModuleList)]
    return max(lists, key=len)
