"""What the docstrings of the config dataclasses say about each setting, for help, reference and JSON schema."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from alignlab.config.registry import schemas
from alignlab.config.schemas import Train

_NAMES = re.compile(r"^(\w+(?:, \w+)*):(?:\s+(.*))?$")


@dataclass(frozen=True)
class Setting:
    """One key of a group.

    type:    the annotation as it is read by people: float, str or null, list of str.
    default: the value without any override; `required` says that there is none.
    comment: what the docstring of the dataclass says.
    """

    name: str
    type: str
    default: Any
    required: bool
    comment: str


@cache
def settings_of(cls: type) -> tuple[Setting, ...]:
    """The settings of a config dataclass, in the order of its fields. Groups inside it are left out."""
    hints = get_type_hints(cls)
    comments = _comments(cls)
    return tuple(
        Setting(f.name, type_name(hints[f.name]), _default(f), _is_required(f), comments.get(f.name, ""))
        for f in fields(cls)
        if not _is_group(hints[f.name])
    )


def parts_of_a_run() -> Iterator[tuple[str, type]]:
    """(key, dataclass) of each part of a run's config that is no choice of a group: trainer, evaluation and so on."""
    for name, hint in get_type_hints(Train).items():
        if isinstance(hint, type) and is_dataclass(hint) and name not in schemas():
            yield name, hint


def summary(cls: type) -> str:
    """The first sentence of a dataclass's own docstring."""
    return (inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0]).replace("\n", " ")


def type_name(hint: Any) -> str:
    """A type as people read it: `float | None` is "float or null"."""
    if hint is type(None):
        return "null"
    if hint is Any:
        return "any"
    arguments = [a for a in get_args(hint) if a is not ...]
    origin = get_origin(hint)
    if origin in (list, tuple):
        return f"list of {type_name(arguments[0])}"
    if origin in (dict, Mapping):
        return f"mapping of {type_name(arguments[1])}"
    if arguments:
        return " or ".join(type_name(a) for a in arguments)
    return str(getattr(hint, "__name__", hint))


def _comments(cls: type) -> dict[str, str]:
    """Setting -> its comment. The docstring of a subclass comes before those of its bases."""
    found: dict[str, str] = {}
    for base in cls.__mro__:
        for name, text in _entries(base.__dict__.get("__doc__") or ""):
            found.setdefault(name, text)
    return found


def _entries(docstring: str) -> Iterator[tuple[str, str]]:
    """The entries `name: text` of a docstring. A text goes on in the indented lines below it."""
    names: list[str] = []
    text: list[str] = []
    for line in [*inspect.cleandoc(docstring).splitlines(), "end"]:
        if names and line.startswith(" "):
            text.append(line.strip())
            continue
        for name in names:
            yield name, " ".join(part for part in text if part)
        names, text = [], []
        if found := _NAMES.match(line):
            names, text = found[1].split(", "), [found[2] or ""]


def _is_group(hint: Any) -> bool:
    """Whether a field holds another group of settings."""
    return any(is_dataclass(part) for part in (hint, *get_args(hint)))


def _is_required(f: Field[Any]) -> bool:
    return f.default is MISSING and f.default_factory is MISSING


def _default(f: Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not MISSING else None if f.default is MISSING else f.default
