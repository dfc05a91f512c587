"""torch is imported when it is first used: a finished run is answered, and a wrong command refused, without it.

Importing it takes a second or two, and everything up to a run's id is names and numbers. The modules that a config is
read with therefore say `import torch`, and nothing that asks torch for something while they are imported themselves.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
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


class _Executed(Loader):
    """Gives a module that is there already, as it is."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


class _Parts(MetaPathFinder):
    """Where `import torch.nn` is the first use, importlib asks torch for its path, by which torch is executed and with
    it torch.nn; importlib does not look again, and would execute torch.nn a second time.
    """

    def __init__(self, package: str) -> None:
        self._prefix = f"{package}."

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        module = sys.modules.get(fullname) if target is None and fullname.startswith(self._prefix) else None
        return None if module is None else ModuleSpec(fullname, _Executed(module))


def import_on_demand(name: str) -> None:
    """Let `import name` cost nothing until the module is used; nothing happens where it is imported, or missing.

    One thread at a time may use it first: others would see it half executed.
    """
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        sys.meta_path.insert(0, _Parts(name))
        module.__class__ = _OnDemand
