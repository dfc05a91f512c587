"""Finds the classes of a package and of plug-ins. A new file in a folder is found without being registered."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any

from alignlab.errors import ConfigError, Problem
from alignlab.plugins import Plugin, active, modules_of

# Type of a class attribute that is checked -> a value of it, for messages.
_EXAMPLES = {"Requires": 'Requires(data="pairs", reference=True)', "bool": "False"}


def module_name(cls: type) -> str:
    """Name of the module that defines a class, without its package. Configs select a class by this name."""
    return cls.__module__.rpartition(".")[2]


def classes_by_module(package: str, base: type) -> dict[str, Any]:
    """Module name -> the concrete subclass of `base` that the module defines, for each module of a package.

    The same folder of each active plug-in belongs to the package. Modules that define no such class are left out, and
    so are classes of plug-ins with faults (`faults_of`).
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
            several = [cls for cls in _defined_in(module, base) if not any(faults_of(cls))]
            if len(several) > 1:
                names = ", ".join(cls.__name__ for cls in several)
                text = f"{module.__name__} defines several parts ({names}); give each a file of its own"
                problems.append(Problem("plugins", plugin.source, text))
            for cls in several[:1]:
                if name in found:
                    whose = "alignlab" if name in own else "another plug-in"
                    text = f"{module.__name__} has the name of a part of {whose}; rename the file"
                    problems.append(Problem("plugins", plugin.source, text))
                found[name] = cls
    if problems:
        raise ConfigError(problems)
    return found


def faulty_classes(plugin: Plugin, package: str, base: type) -> dict[type, list[tuple[str, str]]]:
    """The classes in a folder of a plug-in that can't be parts -> their faults.

    An abstract class with subclasses is a base of parts. It is no part itself and is left out.
    """
    found = {}
    for module in modules_of(plugin, package.removeprefix("alignlab.")):
        for cls in _subclasses_in(module, base):
            faults = list(faults_of(cls))
            if faults and not (inspect.isabstract(cls) and cls.__subclasses__()):
                found[cls] = faults
    return found


def faults_of(cls: type) -> Iterator[tuple[str, str]]:
    """(what a class lacks or has wrong of what its bases ask for, the line of Python that mends it)."""
    for name in sorted(getattr(cls, "__abstractmethods__", ())):
        yield f"lacks the method {name}", f"def {name}{_signature(getattr(cls, name))}: ..."
    settings = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
    for name, kind in _class_attributes(cls).items():
        line = f"{name}: ClassVar[{kind}] = {_EXAMPLES.get(kind, '...')}"
        if name in settings:
            yield f"has {name} as a setting, but it belongs to the class", line
        elif not hasattr(cls, name):
            yield f"lacks the class attribute {name}", line
        elif kind in _EXAMPLES and kind not in [base.__name__ for base in type(getattr(cls, name)).__mro__]:
            yield f"has the class attribute {name}, but its value is no {kind}", line
    own = [name for name, kind in _annotations(cls).items() if "ClassVar" not in kind]
    if own and dataclasses.is_dataclass(cls) and "__dataclass_params__" not in vars(cls):
        yield f"is no dataclass, so {', '.join(own)} can't be set", f"@dataclass above `class {cls.__name__}`"


def _class_attributes(cls: type) -> dict[str, str]:
    """Name -> type of the attributes that the bases of a class declare as those of a class."""
    declared = {}
    for base in reversed(cls.__mro__[1:]):
        for name, kind in _annotations(base).items():
            if found := re.fullmatch(r"(?:typing\.)?ClassVar\[(.*)\]", kind):
                declared[name] = found[1]
    return declared


def _annotations(cls: type) -> Mapping[str, str]:
    return {name: kind if isinstance(kind, str) else str(kind) for name, kind in inspect.get_annotations(cls).items()}


def _signature(function: Any) -> str:
    return str(inspect.signature(function)).replace("'", "") if callable(function) else "(self)"


def _defined_in(module: ModuleType, base: type) -> Iterator[type]:
    """The concrete subclasses of `base` that a module defines."""
    return (cls for cls in _subclasses_in(module, base) if not inspect.isabstract(cls))


def _subclasses_in(module: ModuleType, base: type) -> Iterator[type]:
    for _, cls in inspect.getmembers(module, inspect.isclass):
        if cls.__module__ == module.__name__ and issubclass(cls, base):
            yield cls
