"""What every part promises, and how a promise is checked.

A contract is a function of a part. It yields a sentence for each way in which the part breaks it, and the first line of
its docstring is the promise. Tests run the contracts on the parts of alignlab, `alignlab test-plugin` on those of a
plug-in.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

from alignlab.errors import ConfigError

Contract = Callable[[Any], Iterator[str]]


def promise(contract: Contract) -> str:
    """The promise of a contract in words."""
    return (inspect.getdoc(contract) or contract.__name__).partition("\n")[0].rstrip(".")


def docstring_explains_every_field(part: Any) -> Iterator[str]:
    """The docstring of the class explains every field that it adds."""
    text = inspect.getdoc(type(part)) or ""
    for name in (f.name for f in dataclasses.fields(part) if f.name in inspect.get_annotations(type(part))):
        if not re.search(rf"^\s*([\w, ]+, )?{name}(, [\w, ]+)?:", text, re.MULTILINE):
            yield f"the docstring of {type(part).__name__} has no line `{name}:`"


def every_number_has_values_that_are_refused(part: Any) -> Iterator[str]:
    """NaN and minus infinity are refused in every number, with a problem that names the field."""
    for field in dataclasses.fields(part):
        if isinstance(getattr(part, field.name), float):
            for bad in (float("nan"), float("-inf")):
                yield from _not_refused(part, field.name, bad)


def _not_refused(part: Any, name: str, value: object) -> Iterator[str]:
    try:
        dataclasses.replace(part, **{name: value})
    except ConfigError as error:
        if name not in [problem.key for problem in error.problems]:
            yield f"{name}={value} is refused, but no problem has the key {name}"
    else:
        yield f"{name}={value} is not refused; `problems` should yield a Problem for it"


def every_word_has_values_that_are_refused(part: Any) -> Iterator[str]:
    """A word that means nothing is refused in every text field."""
    for field in dataclasses.fields(part):
        if isinstance(getattr(part, field.name), str):
            yield from _not_refused(part, field.name, "nonsense")


EVERY_PART: tuple[Contract, ...] = (docstring_explains_every_field, every_number_has_values_that_are_refused)
