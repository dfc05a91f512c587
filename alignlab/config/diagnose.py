"""Finds all problems of a command line that Hydra can't compose. Hydra itself stops at the first one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from alignlab.config.axes import grid
from alignlab.config.composer import COMPOSE_ERRORS, Composer
from alignlab.config.hydra_errors import unreadable
from alignlab.config.points import of_chosen, plan_points
from alignlab.errors import ConfigError, Problem


def diagnose(config_name: str, overrides: Sequence[str], *, many: bool) -> list[Problem]:
    """Every problem of a command line and of all points that it asks for.

    many: whether -m allows several values.
    Needs an initialised GlobalHydra. Returns an empty list if all points compose and pass preflight.
    """
    composer = Composer(GlobalHydra.instance().config_loader(), config_name)
    problems: list[Problem] = []
    parsed: list[Override] = []
    for text in overrides:
        try:
            parsed.append(composer.parse(text))
        except HydraException:
            problems.append(unreadable(text))
    if not many and not any(o.key_or_group == "sweep" for o in parsed):
        problems += [_needs_m(o) for o in parsed if o.is_sweep_override()]
    preset, zipped, excluded = _preset(composer, parsed)
    listed = [
        o for o in (*preset, *parsed) if not o.is_interval_sweep()
    ]  # intervals belong to a search, which reports its own problems
    points = grid(listed, zipped, excluded)
    try:
        plan_points(composer, points.jobs, [*problems, *points.problems])
    except ConfigError as error:
        return error.problems
    return []


def diagnose_one(config_name: str, overrides: Sequence[str], check: Callable[[Any], Any]) -> list[Problem]:
    """Like `diagnose`, for a config without points. `check` raises ConfigError if values of the config are wrong."""
    composer = Composer(GlobalHydra.instance().config_loader(), config_name)
    problems: list[Problem] = []
    read: list[str] = []
    for text in overrides:
        try:
            composer.parse(text)
            read.append(text)
        except HydraException:
            problems.append(unreadable(text))
    config, found = composer.compose(read)
    try:
        check(config)
    except ConfigError as error:
        found += of_chosen(composer, read, found, error.problems)
    return [*problems, *found]


def _needs_m(override: Override) -> Problem:
    text = str(override.input_line)
    key, _, value = text.partition("=")
    if re.fullmatch(r"-?\d+,\d+", value):
        fix = f"{key}={value.replace(',', '.')}   or   -m {text}"
        return Problem(key, value, "several values need -m, and a decimal number has a point", fix)
    return Problem(key, value, "several values need -m", f"-m {text}")


def _preset(composer: Composer, parsed: Sequence[Override]) -> tuple[list[Override], Any, Any]:
    """(axes of the sweep preset, as if they had been typed; zipped axes; excluded points)."""
    relevant = [o for o in parsed if not o.is_sweep_override() and (composer.chooses_group(o) or _is_about_sweep(o))]
    try:
        config = composer.load([str(o.input_line) for o in relevant])
        params = config.hydra.sweeper.get("params") or {}
        axes = [composer.parse(f"{key}={values}") for key, values in params.items()]
        return axes, OmegaConf.to_container(config.sweep.zip), OmegaConf.to_container(config.sweep.exclude)
    except COMPOSE_ERRORS:
        return [], [], []  # composing the points reports the problem


def _is_about_sweep(override: Override) -> bool:
    return override.key_or_group in ("sweep.zip", "sweep.exclude")
