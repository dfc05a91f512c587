"""Finds classes by the folder they live in: a new file is found by being there."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import lru_cache
from typing import Any


def module_name(cls: type) -> str:
    """Name of the file that a class lives in, which is what configs call it."""
    return cls.__module__.rpartition(".")[2]


@lru_cache(maxsize=32)
def classes_by_module(package: str, base: type) -> dict[str, Any]:
    """Module name -> the concrete subclass of `base` that the module defines, for all modules of a package."""
    found: dict[str, Any] = {}
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        module = importlib.import_module(f"{package}.{info.name}")
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ == module.__name__ and issubclass(cls, base) and not inspect.isabstract(cls):
                found[info.name] = cls
    return found
