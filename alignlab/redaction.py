"""Removes keys and passwords from what is shown: configs, overrides, reasons of errors, logs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

HIDDEN = "(hidden)"

# Last part of the name of a config key whose value is a secret. `api_key_env` names a variable and is none.
_SECRET_KEY = re.compile(
    r"(?i)((^|[._-])(api[_-]?key|secret([_-]?key)?|access[_-]?key|private[_-]?key|passw(or)?d|credentials?|authorization|"
    r"bearer|(access|auth|api|hub|hf|refresh|id|session)[_-]?token)|(^|[.])token)$"
)
# Secrets by their form: keys of OpenAI, Anthropic, Hugging Face, GitHub, Google, Slack, AWS and W&B, JSON web tokens,
# and the password of an address.
_SECRET_TEXT = re.compile(
    r"sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|AIza[\w-]{30,}|"
    r"xox[abprs]-[\w-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{16}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|"
    r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)|(?i:(?<=bearer )\S{8,})|\bwandb_v1_\w{20,}|"
    r"(?i:(?<=[?&]key=)[^&\s#]+|(?<=[?&]token=)[^&\s#]+)"
)
# A value after the name of a secret. A placeholder of a hint, such as <your key>, is no such value.
_ASSIGNED = re.compile(
    r"(?i)\b([\w.-]*(?:api[_-]?key|secret|passw(?:or)?d|access[_-]?key|(?:auth|access|hf|hub)[_-]?token)[\"']?"
    r"\s*[=:]\s*[\"']?)(?!<[a-z ]+>)([^\s\"',;&\]}]{4,})"
)
# Environment variables that hold secrets, by their names. A tokenizer is none. Shorter values may be common words.
_SECRET_VARIABLE = re.compile("(?i)KEY|TOKEN(?!IZ)|SECRET|PASS|CREDENTIAL")
_SHORTEST = 8


def redacted(text: object) -> str:
    """The text with `(hidden)` in place of everything that looks like a key, a token or a password.

    The same holds for values of environment variables that are secrets by their names.
    """
    shown = str(text)
    for value in secret_variables().values():
        shown = shown.replace(value, HIDDEN)
    return _ASSIGNED.sub(rf"\1{HIDDEN}", _SECRET_TEXT.sub(HIDDEN, shown))


def secret_variables() -> dict[str, str]:
    """Environment variable -> its secret value, longest first. The name of a file or a folder is none."""
    named = {name: os.environ[name] for name in os.environ if _SECRET_VARIABLE.search(name)}
    found = [(name, value) for name, value in named.items() if len(value) >= _SHORTEST and not os.path.exists(value)]
    return dict(sorted(found, key=lambda pair: len(pair[1]), reverse=True))


def is_secret(key: str, value: object) -> bool:
    """Whether the value of a config key is a key, a token or a password, by the key's name or by the value's form."""
    if not isinstance(value, str) or not value or value == HIDDEN:
        return False
    assigned = _ASSIGNED.search(value) if "://" in value else None
    return bool(_SECRET_KEY.search(key) or _SECRET_TEXT.search(value) or assigned)


def secrets_of(argv: Sequence[str]) -> list[str]:
    """Values of the secret keys that a command line sets, longest first."""
    pairs = [word.partition("=")[::2] for word in argv]
    found = {value for key, value in pairs if len(value) > 3 and _SECRET_KEY.search(key.lstrip("+~"))}
    return sorted(found | {value.strip("'\"") for value in found}, key=len, reverse=True)


def redacted_config(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A config with dotted keys, without secret values. Texts inside other values are searched, too."""
    return {key: _value(key, value) for key, value in flat.items()}


def redacted_override(text: str) -> str:
    """A word of a command line, `key=value`, without a secret value."""
    key, equals, value = text.partition("=")
    if equals and value and _SECRET_KEY.search(key.lstrip("+~")):
        return f"{key}={HIDDEN}"
    return redacted(text)


def _value(key: str, value: Any) -> Any:
    if value and isinstance(value, str | int) and not isinstance(value, bool) and _SECRET_KEY.search(key):
        return HIDDEN
    if isinstance(value, Mapping):
        return {name: _value(str(name), part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_override(part) if isinstance(part, str) else _value(key, part) for part in value]
    return redacted(value) if isinstance(value, str) else value
