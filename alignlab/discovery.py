"""Finds the classes of a package. A new file in the package's folder is found without being registered."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import lru_cache
from typing import Any


def module_name(cls: type) -> str:
    """Name of the module that defines a class, without its package. Configs select a class by this name."""
    return cls.__module__.rpartition(".")[2]


@lru_cache(maxsize=32)
def classes_by_module(package: str, base: type) -> dict[str, Any]:
    """Module name -> the concrete subclass of `base` that the module defines, for each module of a package.

    Modules that define no such class are left out.
    """
    found: dict[str, Any] = {}
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        module = importlib.import_module(f"{package}.{info.name}")
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ == module.__name__ and issubclass(cls, base) and not inspect.isabstract(cls):
                found[info.name] = cls
    return found
