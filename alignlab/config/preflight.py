"""Checks a composed config before anything starts, and turns it into a typed value. All problems at once."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Iterator
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alignlab.config.schemas import WITH_FILES, Train, combination_problems
from alignlab.errors import ConfigError, Problem


def to_train(config: DictConfig) -> Train:
    """The typed config. Raises ConfigError with every unknown key, missing value, bad range and bad combination."""
    problems = list(_unchosen_groups(config))
    if problems:
        raise ConfigError(problems)
    problems = list(_unknown_keys(config)) + list(_missing_values(config))
    groups, found = _group_objects(config)
    problems += found
    problems += [problem.under(name) for name in WITH_FILES if name in groups for problem in groups[name].missing()]
    groups_of_train = {f.name for f in dataclasses.fields(Train) if isinstance(config._get_node(f.name), DictConfig)}
    rest = {f.name: config[f.name] for f in dataclasses.fields(Train) if f.name not in groups_of_train}
    problems += combination_problems({**groups, **rest})
    if problems:
        raise ConfigError(problems)
    return Train(**groups, **rest)


def did_you_mean(word: str, known: list[str]) -> str:
    """The known word closest to `word`, or nothing."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.5)), "")


def unknown_key(key: str, known: list[str], value: object = None) -> Problem:
    """A key that does not exist, with what its neighbours are called."""
    parent, _, leaf = key.rpartition(".")
    guess = did_you_mean(leaf, known)
    prefix = f"{parent}." if parent else ""
    fix = f"{prefix}{guess}={value if value is not None else '...'}" if guess else ""
    has = ", ".join(sorted(known)) or "nothing to set"
    return Problem(key, value, f"no such key; {parent or 'the config'} has: {has}", fix)


def _unchosen_groups(config: DictConfig) -> Iterator[Problem]:
    """Groups that were taken away or set to nothing."""
    for field in dataclasses.fields(Train):
        if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING:
            continue
        node = config._get_node(field.name) if field.name in config else None
        chosen = isinstance(node, DictConfig) and not node._is_none() and not node._is_missing()
        if not chosen or inspect.isabstract(OmegaConf.get_type(node)):
            yield Problem(
                field.name, None, "needs one of the options that `alignlab train --help` shows", f"{field.name}=..."
            )


def _unknown_keys(node: DictConfig, prefix: str = "") -> Iterator[Problem]:
    """Keys that a `+key=value` put where the schema has none."""
    schema = OmegaConf.get_type(node)
    known = [f.name for f in dataclasses.fields(schema)] if dataclasses.is_dataclass(schema) else None
    for key in node:
        name = f"{prefix}{key!s}"
        if known is not None and key not in known:
            yield unknown_key(name, known, None if OmegaConf.is_missing(node, key) else node[key])
        elif not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            yield from _unknown_keys(node[key], f"{name}.")


def _missing_values(config: DictConfig) -> Iterator[Problem]:
    for key in sorted(OmegaConf.missing_keys(config)):
        yield Problem(key, None, "needs a value", f"{key}=...")


def _group_objects(config: DictConfig) -> tuple[dict[str, Any], list[Problem]]:
    """Every group that has all its values as its dataclass, and what the groups find wrong with themselves."""
    objects: dict[str, Any] = {}
    problems: list[Problem] = []
    for field in dataclasses.fields(Train):
        node = config._get_node(field.name)
        if not isinstance(node, DictConfig) or node._is_missing() or OmegaConf.missing_keys(node):
            continue
        schema = cast(type, OmegaConf.get_type(node))
        known = {f.name for f in dataclasses.fields(schema)}
        try:
            values = cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
            objects[field.name] = schema(**{key: value for key, value in values.items() if key in known})
        except ConfigError as error:
            problems += [problem.under(field.name) for problem in error.problems]
        except OmegaConfBaseException as error:  # an interpolation that leads nowhere, for one
            problems.append(Problem(field.name, None, str(error).splitlines()[0]))
    return objects, problems
