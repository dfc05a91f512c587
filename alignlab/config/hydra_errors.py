"""Messages of Hydra and OmegaConf in the words of a user."""

from __future__ import annotations

import re

from alignlab.config.renamed import OPTIONS
from alignlab.errors import Problem
from alignlab.spelling import as_typed

_QUOTING = """'key="text with = or ,"'   or   'key=["a=b","c"]'   (the outer quotes are for the shell)"""


def unreadable(override: str) -> Problem:
    """The problem of an override that Hydra cannot parse, with the quotes that it most likely lacks."""
    key, equals, value = override.partition("=")
    if not equals or not key or not value:
        return Problem(override, None, "can't be read", "key=value, without spaces around =")
    if re.fullmatch(r"\[[^][{}()'\"]*=[^][{}()'\"]*\]", value):
        entries = [entry.strip() for entry in value[1:-1].split(",")]
        return Problem(override, None, "can't be read: entries that hold = need quotes", f"'{key}={as_typed(entries)}'")
    return Problem(override, None, "can't be read: a bracket or a quote is missing or not expected", _QUOTING)


def plain_cause(error: BaseException) -> str:
    """What is wrong with a config file, or with an override that composes several files, in one line."""
    text = f"{error}\n{error.__cause__ or ''}"
    file = re.search(r"In '([^']+)'", text)
    here = file[1] if file and "/" in file[1] else "it"  # not "train", which all command lines start from
    if found := re.search(r"full_key: (\S+)", text):
        return f"{here} sets {found[1]}, which does not exist"
    if found := re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'", text):
        renamed = OPTIONS.get(found[1], {}).get(found[2])
        group = found[1].removeprefix("hydra/")
        return f"{here} selects {group}={found[2]}, which {f'is called {renamed} now' if renamed else 'does not exist'}"
    if found := re.search(r"Could not override '([^'@]+)", text):
        folder = here.rpartition("/")[0]
        name = found[1].removeprefix(f"{folder}/")
        return f"{here} overrides {name}, which nothing selects before it; write `override /{name}: ...` with the slash"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(dict.fromkeys(line for line in lines if "_type=" not in line))
