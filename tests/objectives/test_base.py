"""The base of all objectives: log1mexp at both ends, and fields that a dialect sets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

import pytest
import torch

from alignlab.discovery import classes_by_module
from alignlab.errors import ConfigError
from alignlab.objectives.base import FROM_DIALECT, Objective, log1mexp
from alignlab.types import Requires
from tests.objectives.build import scalar

HALF = -math.log(2.0)  # where the branches meet


# log(1 - exp(x)) by mpmath at 40 digits. -2^-20 is near 0, where 1 - exp(x) cancels; at -40 it rounds to 1.
@pytest.mark.parametrize(
    ("x", "value"),
    [
        (-(2.0**-100), -69.314718055994531),
        (-(2.0**-20), -13.862944088036026),
        (-0.1, -2.3521684610440908),
        (-0.5, -0.93275212956718857),
        (HALF, HALF),  # 1 - 1/2 = 1/2
        (-1.0, -0.45867514538708189),
        (-5.0, -0.0067607494494885578),
        (-15.0, -3.05902367289950174e-7),
        (-40.0, -4.248354255291589e-18),
    ],
)
def test_log1mexp_and_its_slope(x: float, value: float) -> None:
    """The slope is -exp(x) / (1 - exp(x)) = -1 / (exp(-x) - 1)."""
    leaf = scalar(x)
    out = log1mexp(leaf)
    (slope,) = torch.autograd.grad(out.sum(), leaf)
    assert out.item() == pytest.approx(value, rel=1e-14)
    assert slope.item() == pytest.approx(-1 / math.expm1(-x), rel=1e-12)


# log1p(-exp(x)) is -inf in float32 from -6e-8 up; -1e-30 and -1e4 are where one branch alone would give inf or 0 * inf
@pytest.mark.parametrize("x", [-1e-30, -(2.0**-26), -1e-6, -0.6931471, -0.6931472, -1.0, -10.0, -60.0, -1e4])
def test_log1mexp_in_float32(x: float) -> None:
    leaf = torch.tensor([x], requires_grad=True)
    exact = leaf.item()
    out = log1mexp(leaf)
    (slope,) = torch.autograd.grad(out.sum(), leaf)
    value = math.log(-math.expm1(exact)) if exact > HALF else math.log1p(-math.exp(exact))
    assert out.dtype == torch.float32
    assert out.item() == pytest.approx(value, rel=1e-6)
    assert slope.item() == pytest.approx(-math.exp(exact) / -math.expm1(exact), rel=1e-6)


@dataclass
class Example(Objective):
    """An objective with two fields that the dialect sets, and one that it does not set."""

    size: str = FROM_DIALECT
    damped: Any = FROM_DIALECT
    shade: str = "grey"
    dialect: str = "paper"

    requires: ClassVar[Requires] = Requires(data="pairs")
    dialects: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"size": "small", "damped": False},
        "code": {"size": "large", "damped": True},
    }

    def __call__(self, batch: Any) -> torch.Tensor:
        return torch.zeros(1)


def test_dialect_fills_what_is_left_to_it() -> None:
    code, paper = Example(dialect="code"), Example()
    assert (code.size, code.damped, code.shade) == ("large", True, "grey")
    assert (paper.size, paper.damped, paper.shade) == ("small", False, "grey")


def test_an_explicit_field_wins() -> None:
    mixed = Example(size="small", shade="black", dialect="code")
    assert (mixed.size, mixed.damped, mixed.shade) == ("small", True, "black")


def test_instances_show_effective_values_only() -> None:
    assert Example(dialect="code") == Example(size="large", damped=True, dialect="code")


def test_unknown_dialect_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="must be one of: paper, code") as caught:
        Example(dialect="blog")
    assert [problem.key for problem in caught.value.problems] == ["dialect"]


FAMILY = classes_by_module("alignlab.objectives", Objective)
DIALECTS = [(name, dialect) for name, cls in FAMILY.items() for dialect in cls.dialects]


def test_some_objectives_have_dialects() -> None:
    assert {"cpo", "simpo", "bco", "rpo", "ipo"} <= {name for name, _ in DIALECTS}


@pytest.mark.parametrize(("name", "dialect"), DIALECTS)
def test_every_dialect_sets_what_its_table_says_and_no_word_of_it_stays(name: str, dialect: str) -> None:
    cls = FAMILY[name]
    needed = {f.name: 0.1 for f in fields(cls) if f.default is f.default_factory is MISSING}
    made = cls(**needed, dialect=dialect)
    assert {field: getattr(made, field) for field in cls.dialects[dialect]} == cls.dialects[dialect]
    assert FROM_DIALECT not in [getattr(made, f.name) for f in fields(cls)]
