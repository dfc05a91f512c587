"""Problems of values that refer to something else: `${output_root}`, `${oc.env:HOME}`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alignlab.errors import ConfigError, Problem

# OmegaConf's words -> what they mean. {} stands for the first group.
_MEANINGS = {
    r"Recursive interpolation": "refers to itself, directly or through other keys",
    r"Interpolation key '([^']*)' not found": "refers to {}, which does not exist",
    r"Unsupported interpolation type (\S*)": "refers to {}:, which reads nothing; oc.env: reads a variable",
    r"Value (.*) of type .* could not be converted to Float": "refers to {}, and must be a number",
    r"Value (.*) of type .* could not be converted to Integer": "refers to {}, and must be a whole number",
    r"Value (.*) of type .* could not be converted to Boolean": "refers to {}, and must be true or false",
}


def require_resolved(config: DictConfig) -> None:
    """Raise ConfigError with every value of a composed config that refers to something that it can't have."""
    if problems := list(_problems(config)):
        raise ConfigError(problems)


def problem_of_reference(key: str, value: object, error: OmegaConfBaseException) -> Problem:
    """The problem of one value that can't be resolved.

    value: as it was typed; None if that is unknown.
    error: raised by OmegaConf when it looked for what the value refers to.
    """
    reason = str(error).splitlines()[0]
    if unset := re.search(r"Environment variable '([^']*)' not found", reason):
        text = f"refers to the environment variable {unset[1]}, which is not set"
        return Problem(key, value, text, f"export {unset[1]}=<its value>   or   {key}=<a value>")
    for words, meaning in _MEANINGS.items():
        if found := re.search(words, reason):
            return Problem(key, value, meaning.format(*found.groups()), f"{key}=<a value>")
    return Problem(key, value, reason, f"{key}=<a value>")


def _problems(config: DictConfig) -> Iterator[Problem]:
    for key, text in texts_in(OmegaConf.to_container(config, resolve=False), ""):
        if "${" in text:
            try:
                OmegaConf.select(config, key)
            except OmegaConfBaseException as error:
                yield problem_of_reference(key, text, error)


def texts_in(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every text in a part of a config, at any depth."""
    if isinstance(node, str):
        yield key, node
    for name, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from texts_in(value, f"{key}.{name}".lstrip("."))
