"""alignlab: which preference objective, which beta, on which data, and how sure is that?

The public functions are those of `alignlab.api` and `alignlab.plot`. They are loaded when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alignlab import plot
    from alignlab.api import Run, evaluate, find_runs, read_sweep, run_sweep, train

__all__ = ["Run", "evaluate", "find_runs", "plot", "read_sweep", "run_sweep", "train"]


def __getattr__(name: str) -> Any:
    if name == "plot":
        return importlib.import_module("alignlab.plot")
    if name in __all__:
        return getattr(importlib.import_module("alignlab.api"), name)
    raise AttributeError(f"module 'alignlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
