"""A JSON schema of the config files that users write: experiments, sweep presets and stages. Editors read it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from alignlab.config.documentation import settings_of, summary
from alignlab.config.registry import schemas
from alignlab.config.schemas import Train

# References to other keys, and ??? for a value that must be set, stand in place of any value.
_REFERENCE = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}

_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean"}

# Groups with several options at once: name -> option.
_NAMED = ("tracking", "judge")


def json_schema() -> dict[str, Any]:
    """The schema of a file with `# @package _global_`: any keys of a run, a defaults list, and axes of a sweep."""
    hints = get_type_hints(Train)
    comments = {s.name: s.comment for s in settings_of(Train)}
    properties: dict[str, Any] = {
        "defaults": {"type": "array", "description": "options of groups, such as `- override /objective: kto`"},
        "hydra": _hydra(),
    }
    for f in fields(Train):
        if f.name in schemas():
            properties[f.name] = _group(f.name)
        else:
            properties[f.name] = {**_value(hints[f.name]), "description": comments.get(f.name, "")}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Config of `alignlab train`",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _hydra() -> dict[str, Any]:
    axes = {
        "type": "object",
        "description": "axis -> values, separated by commas",
        "additionalProperties": {"type": ["string", "number", "boolean"]},
    }
    sweeper = {"type": "object", "properties": {"params": axes}}
    return {"type": "object", "properties": {"sweeper": sweeper, "launcher": {"type": "object"}, "mode": {}}}


def _group(group: str) -> dict[str, Any]:
    """A group of keys. The option is chosen elsewhere, so that the keys of any option may be there."""
    options = [_object(cls) for _, cls in sorted(schemas()[group].items())]
    if group in _NAMED:
        return {"type": "object", "additionalProperties": {"anyOf": options}}
    return {"anyOf": [*options, {"type": "null"}]}


def _object(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    comments = {s.name: s.comment for s in settings_of(cls)}
    properties = {f.name: {**_value(hints[f.name]), **_described(comments.get(f.name, ""))} for f in fields(cls)}
    return {
        "type": "object",
        "description": summary(cls),
        "properties": properties,
        "additionalProperties": False,
    }


def _described(comment: str) -> dict[str, str]:
    return {"description": comment} if comment else {}


def _value(hint: Any) -> dict[str, Any]:
    """The schema of the values of a type."""
    if hint in _SCALARS:
        return {"anyOf": [{"type": _SCALARS[hint]}, _REFERENCE]}
    if hint is type(None):
        return {"type": "null"}
    if isinstance(hint, type) and is_dataclass(hint):
        return _object(hint)
    origin, arguments = get_origin(hint), [a for a in get_args(hint) if a is not ...]
    if origin in (list, tuple, Sequence):
        return {"anyOf": [{"type": "array", "items": _value(arguments[0])}, _REFERENCE]}
    if origin in (dict, Mapping):
        return {"anyOf": [{"type": "object", "additionalProperties": _value(arguments[1])}, _REFERENCE]}
    if arguments:
        return {"anyOf": [_value(a) for a in arguments]}
    return {}


def as_text() -> str:
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"
