"""Reads the command lines of verbs that need no Hydra: names, `key=value` for the fields of a dataclass, and flags."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from alignlab.config.own_plugins import load_plugins
from alignlab.errors import ConfigError, Problem
from alignlab.spelling import correct_spelling

Settings = TypeVar("Settings")

_KINDS: dict[str, tuple[Callable[[str], Any], str]] = {
    "int": (int, "a whole number"),
    "float": (float, "a number"),
}
_BOOLS = {"true": True, "false": False}
_SETTING = re.compile(r"\+{0,2}([A-Za-z_][\w.]*)=(.*)", re.DOTALL)


def split_words(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(names, key -> text of its value) of a command line. The last value of a key counts."""
    found = [(word, _SETTING.fullmatch(word)) for word in argv]
    return [word for word, match in found if not match], {match[1]: match[2] for _, match in found if match}


def settings_of(kind: type[Settings], given: dict[str, str]) -> Settings:
    """A dataclass with the given values. Raises ConfigError with all unknown keys and wrong values."""
    known = {f.name: str(f.type) for f in fields(kind)}  # type: ignore[arg-type]
    problems, values = [], {}
    for key, text in given.items():
        if key not in known:
            guess = correct_spelling(key, known)
            has = f"no such key; there are: {', '.join(known)}"
            problems.append(Problem(key, text, has, f"{guess}={text}" if guess else ""))
            continue
        try:
            values[key] = typed_value(text, known[key])
        except ValueError as error:
            problems.append(Problem(key, text, f"must be {error}", f"{key}=..."))
    try:
        made = kind(**values)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return made


def load_named_plugins(given: dict[str, str]) -> None:
    """Load the plug-ins that `plugins=...` names, and remove the key."""
    words = given.pop("plugins", "").strip("[]")
    load_plugins([word.strip() for word in words.split(",") if word.strip()])


def typed_value(text: str, kind: str) -> Any:
    """A typed value. Raises ValueError with the words for what it must be."""
    if kind == "bool":
        if text.lower() not in _BOOLS:
            raise ValueError("true or false")
        return _BOOLS[text.lower()]
    read, wanted = _KINDS.get(kind, (str, "a text"))
    try:
        return read(text)
    except ValueError as error:
        raise ValueError(wanted) from error
