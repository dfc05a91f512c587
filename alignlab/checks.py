"""Checks of tensor shapes and of config values. torch is not imported: a tensor is only asked for its `.shape`."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import field, fields, is_dataclass
from typing import Any

from alignlab.errors import ConfigError, ModelError, Problem
from alignlab.spelling import correct_option

_LATER = "alignlab.later"


def later_setting(**options: Any) -> Any:
    """A field that a config dataclass got after runs were made with it. `options` are those of `dataclasses.field`.

    At its default it is left out of a run's id, so that the runs made before keep their ids.
    """
    return field(metadata={_LATER: True}, **options)


def untouched_later_settings(config: Any) -> list[str]:
    """Names of the `later_setting` fields of a config dataclass that have their default."""
    untouched = []
    for f in fields(config):
        if f.metadata.get(_LATER):
            default = f.default_factory() if callable(f.default_factory) else f.default
            if getattr(config, f.name) == default:
                untouched.append(f.name)
    return untouched


# Bounds of settings. The second one is that of the seeds of numpy and torch, and more than any count that makes sense.
MOST_STRENGTH = 1e6
MOST_COUNT = 2**32 - 1


def with_parts(schema: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config dataclass, with each mapping that stands for a nested dataclass made into that dataclass.

    Raises ConfigError with the problems of the nested values.
    """
    made = dict(values)
    problems: list[Problem] = []
    for f in fields(schema):
        part, given = f.default_factory, values.get(f.name)
        if not (is_dataclass(part) and isinstance(given, Mapping)):
            continue
        known = [own.name for own in fields(part)]
        has = f"no such key; there are: {', '.join(known)}"
        problems += [Problem(f"{f.name}.{key}", given[key], has) for key in given if key not in known]
        try:
            made[f.name] = part(**{key: value for key, value in given.items() if key in known})
        except ConfigError as error:
            problems += [problem.under(f.name) for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return made


class Checked:
    """Base of config dataclasses. Creating an invalid instance raises one ConfigError with all of its problems."""

    def __post_init__(self) -> None:
        problems = list(self.problems())
        if problems:
            raise ConfigError(problems)

    def problems(self) -> Iterator[Problem]:
        """Yield every problem of the fields. A problem's key is the field's name."""
        return iter(())


def check_same_shape(*tensors: Any, rank: int) -> None:
    """Raise ValueError unless all tensors have the same shape and the given rank. This prevents silent broadcasting."""
    shapes = [tuple(t.shape) for t in tensors]
    if len(set(shapes)) != 1 or len(shapes[0]) != rank:
        raise ValueError(f"expected tensors of one shape and rank {rank}, got {shapes}")


def positive(key: str, value: float, *, example: object, hint: str = "") -> Iterator[Problem]:
    """Yield a problem unless value is a finite number > 0."""
    if not (math.isfinite(value) and value > 0):
        yield Problem(key, value, "must be greater than 0" + _because(hint), f"{key}={example}")


def strength(key: str, value: float, *, example: object, hint: str = "") -> Iterator[Problem]:
    """Yield a problem unless value is a number > 0 with which a loss in 32-bit numbers can be computed.

    Rounding of log-probabilities, about 1e-4 nats, is multiplied or divided by it.
    """
    yield from positive(key, value, example=example, hint=hint)
    if 0 < value < math.inf and not 1 / MOST_STRENGTH <= value <= MOST_STRENGTH:
        text = f"must lie between {1 / MOST_STRENGTH:g} and {MOST_STRENGTH:g}: otherwise rounding decides the loss"
        yield Problem(key, value, text, f"{key}={example}")


def finite(key: str, value: float, *, example: object) -> Iterator[Problem]:
    """Yield a problem unless value is a finite number."""
    if not math.isfinite(value):
        yield Problem(key, value, "must be a finite number", f"{key}={example}")


def within(
    key: str, value: float, low: float, high: float, *, example: object, hint: str = "", closed: bool = True
) -> Iterator[Problem]:
    """Yield a problem unless low <= value <= high. If `closed` is False, `high` itself is not allowed."""
    inside = low <= value <= high if closed else low <= value < high
    if not inside:
        bracket = "]" if closed else ")"
        yield Problem(key, value, f"must lie in [{low}, {high}{bracket}" + _because(hint), f"{key}={example}")


def at_least(key: str, value: float, low: float, *, example: object, hint: str = "") -> Iterator[Problem]:
    """Yield a problem unless value is a finite number >= low. A whole number may be at most MOST_COUNT."""
    if not low <= value < math.inf:
        yield Problem(key, value, f"must be at least {low}" + _because(hint), f"{key}={example}")
    elif isinstance(value, int) and value > MOST_COUNT:
        yield Problem(key, value, f"must be at most {MOST_COUNT:,}", f"{key}={example}")


def one_of(key: str, value: object, allowed: Collection[str], *, hint: str = "") -> Iterator[Problem]:
    """Yield a problem unless value is one of the allowed words. The hint corrects the value if it is misspelt."""
    if value not in allowed:
        words = ", ".join(allowed)
        fix = f"{key}={correct_option(str(value), allowed) or '<one of these>'}"
        yield Problem(key, value, f"must be one of: {words}" + _because(hint), fix)


def names_a_run(key: str, value: object, *, example: str) -> Iterator[Problem]:
    """Yield a problem unless value is the name of a stage, or a list of stages and overrides."""
    words = value if isinstance(value, list) else [value or ""]
    if not all(isinstance(word, str) for word in words):
        text = "must be the name of a stage, or a list of stages and overrides"
        yield Problem(key, value, text, f"{key}={example}")


def installed(key: str, value: object, package: str, *, extra: str) -> Iterator[Problem]:
    """Yield a problem unless the package is installed. `extra` is the alignlab extra that installs it."""
    if importlib.util.find_spec(package) is None:
        yield Problem(key, value, f"needs the package {package}", f'pip install "alignlab[{extra}]"')


def model_problems(key: str, folder: str, check: Callable[[str], None]) -> Iterator[Problem]:
    """Yield a problem if `check(folder)` raises a ModelError. `folder` is the folder of a model."""
    try:
        check(folder)
    except ModelError as error:
        yield Problem(key, folder, str(error).replace("\n", "\n      "))


def _because(hint: str) -> str:
    return f" ({hint})" if hint else ""
