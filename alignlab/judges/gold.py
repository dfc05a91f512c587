"""A gold function as judge: any Python function of a prompt and an answer."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from alignlab.data.fingerprint import path_digest
from alignlab.errors import DataError, Problem
from alignlab.judges.base import Answer, Score, ScoreJudge


@dataclass(kw_only=True)
class Gold(ScoreJudge):
    """The answer with the higher score wins.

    function: `package.module:name` of a function (prompt, answer) -> number. It gets the texts of the last turn. It is
              imported when answers are judged, not when the config is read.
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
                return float(gold(row.prompt[-1], row.answer[-1]))
            except (Exception, SystemExit) as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                raise DataError(
                    f"function={self.function} returned no number: {type(error).__name__}: {error} ({where.filename}, "
                    f"line {where.lineno})\n  prompt: {row.prompt[-1][:80]!r}\n  answer: {row.answer[-1][:80]!r}"
                ) from error

        return lambda rows: [score(row) for row in rows]

    def _load(self) -> Callable[[str, str], Any]:
        """The function. Raises ImportError, AttributeError or TypeError if there is none."""
        module, _, name = self.function.partition(":")
        if "" not in sys.path:  # scripts that pip installs do not search the working directory
            sys.path.append("")
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            raise
        except (Exception, SystemExit) as error:  # of the module's own code
            raise ImportError(f"{module} fails when it is imported: {type(error).__name__}: {error}") from error
        if not callable(function):
            raise TypeError(f"{self.function} is not a function")
        return function
