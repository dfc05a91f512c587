"""Messages of Hydra and OmegaConf in the words of a user."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from alignlab.config.renamed import OPTIONS
from alignlab.errors import Problem
from alignlab.spelling import as_typed

_PAIRS = {")": "(", "]": "[", "}": "{"}
_CLOSES = {"(": ")", "[": "]", "{": "}"}

# An entry of a mapping, such as chosen:good_reply.
_ENTRY = re.compile(r"[\w.-]+:[^\s,{}\[\]]*")

# Characters of a value that need no quotes.
_PLAIN = re.compile(r"[\w/\-\\+.$%*@?|: \t]", re.ASCII)


def unreadable(override: str) -> Problem:
    """The problem of an override that Hydra can't parse, with an override that it can."""
    key, equals, value = override.partition("=")
    if not equals or not key or not value:
        return Problem(override, None, "can't be read", "key=value, without spaces around =")
    if odd := re.search(r"[^\w.@/:~+-]", key.removeprefix("${")):
        return Problem(override, None, f"can't be read: no key has the character {_shown(odd[0])}", "key=value")
    if placeholder := re.search(r"<[^<>]+>", value):
        text = f"can't be read: {placeholder[0]} stands for a value of yours; type the value in its place"
        return Problem(override, None, text, f"{key}=...")
    if re.fullmatch(r"\[[^][{}()'\"]*=[^][{}()'\"]*\]", value):
        fixed = as_typed([entry.strip() for entry in value[1:-1].split(",")])
        return Problem(
            override, None, "can't be read: entries that hold = need quotes", _typed(key, fixed, quoted(value))
        )
    without = re.sub(r",(?=\s*(,|[\]})]|$))|(?<=[\[{(]),|^,+", "", value)
    if without not in ("", value) and not set(value) & {"'", '"'} and (fix := _typed(key, without)):
        return Problem(override, None, "can't be read: a value is missing beside a comma", fix)
    why, fixed = _wrong_with(value)
    return Problem(override, None, f"can't be read: {why}", _typed(key, fixed, quoted(value)))


def rejoined(words: Sequence[str]) -> tuple[list[Problem], list[str]]:
    """(a problem for each value that the shell has split, the other words).

    A shell splits a value at its spaces. Some make several words of `key={a:b,c:d}`: `key=a:b key=c:d`.
    """
    problems, others = list[Problem](), list[str]()
    index = 0
    while index < len(words):
        end = _end_of_value(words, index)
        if end == index + 1:
            others.append(words[index])
        else:
            key, _, value = words[index].partition("=")
            parts = [word.partition("=")[2] for word in words[index:end]]
            whole = " ".join([value, *words[index + 1 : end]]) if _opened(value) else "{" + ",".join(parts) + "}"
            text = "was split by the shell: put quotes around the whole word"
            key = key.lstrip("+")
            problems.append(Problem(key, None, text, shlex.quote(f"{key}={whole}")))
        index = end
    return problems, others


def _end_of_value(words: Sequence[str], start: int) -> int:
    """Index after the last word of the value that begins at `start`."""
    key, equals, value = words[start].partition("=")
    if equals and _opened(value):
        for end in range(start + 1, len(words)):
            value += words[end]
            if _opened(value) == 0:
                return end + 1
    end = start + 1
    while equals and end < len(words) and all(_ENTRY.fullmatch(word, len(key) + 1) for word in words[start : end + 1]):
        if not words[end].startswith(f"{key}="):
            break
        end += 1
    return end


def _opened(value: str) -> int:
    """How many brackets of a value without quotes are still open."""
    return 0 if set(value) & {"'", '"'} else sum(value.count(sign) for sign in "[{(") - sum(map(value.count, "]})"))


def quoted(text: str) -> str:
    """A text in the quotes that make it one value for Hydra."""
    return '"' + re.sub(r'(\\*)"', r'\1\1\\"', re.sub(r"(\\+)$", r"\1\1", text)) + '"'


def _typed(key: str, *values: str) -> str:
    """`key=value` as a shell takes it, with the first value that Hydra can read."""
    for value in values:
        with suppress(HydraException):
            OverridesParser.create().parse_override(f"{key}={value}")
            return shlex.quote(f"{key}={value}")
    return ""


def _wrong_with(value: str) -> tuple[str, str]:
    """(why a value can't be read, the value as it was most likely meant)."""
    opened: list[str] = []
    loose = ""  # the first character outside quotes that needs them
    quote = ""
    for at, sign in enumerate(value):
        if quote:
            if sign == quote and (len(value[:at]) - len(value[:at].rstrip("\\"))) % 2 == 0:
                quote = ""
        elif sign in "'\"":
            quote = sign
        elif sign in _CLOSES:
            opened.append(sign)
        elif sign in _PAIRS:
            if not opened or opened.pop() != _PAIRS[sign]:
                return f"{sign} closes nothing", quoted(value)
        elif sign == "," and opened:
            continue
        elif not _PLAIN.match(sign):
            loose = loose or sign
    if quote:
        return f"the quote {quote} is not closed", quoted(value)
    if opened:
        missing = "".join(_CLOSES[sign] for sign in reversed(opened))
        return f"{opened[-1]} is not closed", value + missing
    if loose:
        return f"a value with {_shown(loose)} needs quotes", quoted(value)
    return "a bracket, a comma or a quote is not expected there", quoted(value)


def _shown(sign: str) -> str:
    return json.dumps(sign) if sign.isspace() or not sign.isprintable() else sign


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
