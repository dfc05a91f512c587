"""Why a command line does not compose. Hydra stops at the first bad override; this finds all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra import compose
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from alignlab.config.preflight import did_you_mean, to_train, unknown_key
from alignlab.errors import ConfigError, Problem

_QUOTING = """'key="text with = or ,"'   or   'key=["a=b","c"]'   (the outer quotes are for the shell)"""


def diagnose(config_name: str, overrides: Sequence[str], *, many: bool) -> list[Problem]:
    """Every problem of a command line, found by adding its overrides one after another, groups first.

    many: whether several values were asked for with -m.
    Needs an initialised GlobalHydra. Returns an empty list where everything composes and passes preflight.
    """
    loader = GlobalHydra.instance().config_loader()
    problems: list[Problem] = []
    parsed = []
    for text in overrides:
        try:
            parsed += OverridesParser.create(config_loader=loader).parse_overrides([text])
        except HydraException as error:
            detail = str(error).splitlines()[0]
            fix = _QUOTING if "=" in text.strip("=") else "key=value, without spaces around ="
            problems.append(Problem(text, None, f"can't be read: {detail}", fix))
    if not many and not any(o.key_or_group == "sweep" for o in parsed):
        lists = [o for o in parsed if o.is_sweep_override()]
        problems += [_needs_m(o) for o in lists]
    parsed += _axes_of_preset(config_name, parsed, loader)
    accepted: list[str] = []
    alternatives: list[str] = []
    for override in sorted(parsed, key=lambda o: not _is_group(o, loader)):
        values = _settings(override)
        good = []
        for setting in values:
            try:
                compose(config_name, [*accepted, setting])
                good.append(setting)
            except (HydraException, OmegaConfBaseException, ValueError) as error:
                problems.append(_explain(override, setting, error, config_name, accepted, loader))
        accepted += good[:1]
        alternatives += good[1:]
    for extra in (None, *alternatives):
        key = extra.split("=", 1)[0] if extra else None
        chosen = [s for s in accepted if s.split("=", 1)[0] != key] + ([extra] if extra else [])
        problems += [p for p in _preflight(config_name, chosen) if p not in problems]
    return problems


def _needs_m(override: Override) -> Problem:
    text = str(override.input_line)
    return Problem(override.key_or_group, text.split("=", 1)[1], "several values need -m", f"-m {text}")


def _axes_of_preset(config_name: str, parsed: Sequence[Override], loader: ConfigLoader) -> list[Override]:
    """The axes that a sweep preset brings, as if they had been typed."""
    groups = [o.input_line for o in parsed if o.input_line and _is_group(o, loader) and not o.is_sweep_override()]
    try:
        params = compose(config_name, groups, return_hydra_config=True).hydra.sweeper.get("params") or {}
        typed = [f"{key}={values}" for key, values in params.items()]
        return OverridesParser.create(config_loader=loader).parse_overrides(typed)
    except (HydraException, OmegaConfBaseException, ValueError):
        return []  # a group that does not compose is told of by itself


def _preflight(config_name: str, overrides: list[str]) -> list[Problem]:
    try:
        to_train(without_hydra(compose(config_name, overrides)))
    except ConfigError as error:
        return error.problems
    except HydraException as error:
        return [Problem(" ".join(overrides), None, str(error).splitlines()[0])]
    return []


def without_hydra(config: DictConfig) -> DictConfig:
    """The job's own config, Hydra's node left out."""
    if "hydra" in config:
        with open_dict(config):
            del config["hydra"]
    return config


def _is_group(override: Override, loader: ConfigLoader) -> bool:
    return bool(loader.list_groups("")) and override.key_or_group in _groups(loader)


def _groups(loader: ConfigLoader) -> list[str]:
    return [g for g in loader.list_groups("") if g not in ("schema", "hydra")]


def _settings(override: Override) -> list[str]:
    """`key=value` for each value of a sweep, or the one setting; a deletion as it stands."""
    if override.is_delete() or not override.is_sweep_override():
        return [override.input_line or f"{override.get_key_element()}={override.get_value_element_as_str()}"]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _explain(
    override: Override, setting: str, error: Exception, config_name: str, accepted: list[str], loader: ConfigLoader
) -> Problem:
    """One failed override as a problem with something to type."""
    key = override.key_or_group
    value = setting.split("=", 1)[1] if "=" in setting else None
    if key in _groups(loader):
        options = [o for o in loader.get_group_options(key) if not o.startswith("_")]
        if value in options:
            detail = str(error.__cause__ or error).splitlines()[0]
            return Problem(key, value, f"can't be merged: {detail}; is its first line `# @package _global_`?")
        guess = did_you_mean(str(value), options) or next(iter(options), "...")
        return Problem(key, value, f"no such option; there are: {', '.join(options)}", f"{key}={guess}")
    reason = str(error.__cause__ or error).splitlines()[0]
    expected = re.search(r"could not be converted to (\w+)", reason)
    if override.is_add() and "Could not append" in str(error):
        return Problem(key, value, "is in the config already", f"{key}={value}")
    base = compose(config_name, accepted)
    parent, _, leaf = key.rpartition(".")
    node: Any = OmegaConf.select(base, parent) if parent else base
    if isinstance(node, DictConfig) and leaf not in node:
        known = {str(k) for k in node} | (set() if parent else set(_groups(loader)))
        return unknown_key(key, sorted(known), value)
    if expected:
        kind = {"Float": "a number", "Integer": "a whole number", "Boolean": "true or false"}
        return Problem(key, value, f"must be {kind.get(expected.group(1), expected.group(1))}", f"{key}=...")
    if not isinstance(node, DictConfig):
        return unknown_key(key.split(".")[0], sorted({str(k) for k in base} | set(_groups(loader))))
    return Problem(key, value, reason)
