"""Finds the classes of a package and of plug-ins. A new file in a folder is found without being registered."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from functools import lru_cache
from types import ModuleType
from typing import Any

from alignlab.errors import ConfigError, Problem
from alignlab.plugins import Plugin, active, modules_of


def module_name(cls: type) -> str:
    """Name of the module that defines a class, without its package. Configs select a class by this name."""
    return cls.__module__.rpartition(".")[2]


def classes_by_module(package: str, base: type) -> dict[str, Any]:
    """Module name -> the concrete subclass of `base` that the module defines, for each module of a package.

    The same folder of each active plug-in belongs to the package. Modules that define no such class are left out.
    Raises ConfigError if a module of a plug-in can't be imported or has the name of another option.
    """
    return _classes(package, base, active())


@lru_cache(maxsize=64)
def _classes(package: str, base: type, plugins: tuple[Plugin, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        for cls in _defined_in(importlib.import_module(f"{package}.{info.name}"), base):
            found[info.name] = cls
    own = dict(found)
    problems: list[Problem] = []
    for plugin in plugins:
        for module in modules_of(plugin, package.removeprefix("alignlab.")):
            name = module.__name__.rpartition(".")[2]
            for cls in _defined_in(module, base):
                if name in found:
                    whose = "alignlab" if name in own else "another plug-in"
                    text = f"{module.__name__} has the name of a part of {whose}; rename the file"
                    problems.append(Problem("plugins", plugin.source, text))
                found[name] = cls
    if problems:
        raise ConfigError(problems)
    return found


def _defined_in(module: ModuleType, base: type) -> Iterator[type]:
    for _, cls in inspect.getmembers(module, inspect.isclass):
        if cls.__module__ == module.__name__ and issubclass(cls, base) and not inspect.isabstract(cls):
            yield cls
