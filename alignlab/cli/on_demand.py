"""torch is imported when it is first used: a finished run is answered, and a wrong command refused, without it.

Importing it takes a second or two, and everything up to a run's id is names and numbers. The modules that a config is
read with therefore say `import torch`, and nothing that asks torch for something while they are imported themselves.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType


class _OnDemand(ModuleType):
    """A module that executes itself when it is asked for anything.

    importlib.util.LazyLoader does the same, but a second `import` of the name asks for `__spec__`, and so makes its
    modules execute at once.
    """

    def __getattribute__(self, name: str) -> object:
        if name in ("__spec__", "__class__"):  # what `import` and isinstance() ask for
            return object.__getattribute__(self, name)
        spec = object.__getattribute__(self, "__spec__")
        self.__class__ = ModuleType  # type: ignore[assignment]  # from here on like any other
        try:
            spec.loader.exec_module(self)
        except BaseException:
            sys.modules.pop(spec.name, None)
            raise
        return getattr(self, name)


def import_on_demand(name: str) -> None:
    """Let `import name` cost nothing until the module is used; nothing happens where it is imported, or missing."""
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        module.__class__ = _OnDemand
