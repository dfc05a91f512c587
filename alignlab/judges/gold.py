"""A gold function as judge: any Python function of a prompt and an answer."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from alignlab.data.fingerprint import path_digest
from alignlab.errors import DataError, Problem
from alignlab.judges.base import Answer, Score, ScoreJudge
from alignlab.plugins import place_of

_imported: dict[str, str] = {}  # name of a module -> digest of its file when it was imported


@dataclass(kw_only=True)
class Gold(ScoreJudge):
    """The answer with the higher score wins.

    function: `package.module:name` of a function (prompt, answer) -> number. It gets the texts of the last turn. It is
              imported when answers are judged, not when the config is read. A module may lie in the working directory.
    """

    function: str

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        module, colon, name = self.function.partition(":")
        if not (colon and name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
            text = "must name a function as package.module:function"
            yield Problem("function", self.function, text, "function=my_package.rules:politeness")

    def content(self) -> str:
        """Digest of the function's module, so that changed rules judge again."""
        try:
            source = inspect.getsourcefile(inspect.unwrap(self._load()))
        except TypeError:  # the function is not written in Python, so there is no source to read
            return ""
        return path_digest(source) if source else ""

    def missing(self) -> Iterator[Problem]:
        try:
            self._load()
        except (ImportError, AttributeError, TypeError) as error:
            yield Problem(
                "function", self.function, f"can't be imported: {error}", "function=my_package.rules:politeness"
            )

    def score(self, rows: Sequence[Answer]) -> Sequence[float]:
        return self.ready()(rows)

    def ready(self) -> Score:
        """Import the function. The returned scorer raises DataError if the function fails or returns no number."""
        gold = self._load()

        def score(row: Answer) -> float:
            try:
                with _working_directory_on_path():
                    return float(gold(row.prompt[-1], row.answer[-1]))
            except (Exception, SystemExit) as error:
                where = place_of(error, self.function.partition(":")[0])
                raise DataError(
                    f"function={self.function} returned no number: {type(error).__name__}: {error}{where}\n"
                    f"  prompt: {row.prompt[-1][:80]!r}\n  answer: {row.answer[-1][:80]!r}"
                ) from error

        return lambda rows: [score(row) for row in rows]

    def _load(self) -> Callable[[str, str], Any]:
        """The function. Raises ImportError, AttributeError or TypeError if there is none."""
        module, _, name = self.function.partition(":")
        try:
            with _working_directory_on_path():
                loaded = _current(module)
        except ImportError:
            raise
        except (Exception, SystemExit) as error:  # of the module's own code
            text = f"{module} fails when it is imported: {type(error).__name__}: {error}{place_of(error, module)}"
            raise ImportError(text) from error
        function = getattr(loaded, name)
        if not callable(function):
            raise TypeError(f"{self.function} is not a function")
        return function


@contextmanager
def _working_directory_on_path() -> Iterator[None]:
    """Modules of the working directory can be imported: scripts that pip installs do not search it.

    Afterwards they can't, so that no other import finds a file of the working directory.
    """
    added = "" not in sys.path
    if added:
        sys.path.append("")
    try:
        yield
    finally:
        if added and "" in sys.path:
            sys.path.remove("")


def _current(name: str) -> ModuleType:
    """A module. If its file was edited since this function imported it, it is imported again."""
    module = importlib.import_module(name)
    file = getattr(module, "__file__", None)
    digest = path_digest(file) if file else ""
    if _imported.setdefault(name, digest) != digest:
        module = importlib.reload(module)
        _imported[name] = digest
    return module
