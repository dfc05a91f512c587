"""What every objective must keep, found by discovery: a new file in alignlab/objectives is tested by existing."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose

from alignlab.config.diagnose import without_hydra
from alignlab.config.preflight import to_train
from alignlab.config.registry import schemas
from alignlab.objectives.base import Objective
from alignlab.types import Logps, PairLogps

OBJECTIVES = sorted(schemas()["objective"])
B, T = 6, 9


@pytest.fixture(params=OBJECTIVES)
def objective(request: pytest.FixtureRequest, hydra_conf: None) -> Objective:
    """The objective with the values that its YAML chooses."""
    return to_train(without_hydra(compose("train", [f"objective={request.param}"]))).objective


def side(generator: torch.Generator, dtype: torch.dtype, scale: float = 1.0, extra: int = 0) -> Logps:
    tokens = -torch.rand(B, T, generator=generator, dtype=torch.float64) * 3
    lengths = torch.randint(1, T + 1, (B,), generator=generator)
    mask = torch.arange(T + extra)[None] < lengths[:, None]
    tokens = torch.cat([tokens, torch.full((B, extra), float("nan"), dtype=torch.float64)], dim=1)
    total = torch.where(mask, tokens, 0.0).sum(1)
    reference = total + scale * torch.randn(B, generator=generator, dtype=torch.float64)
    return Logps(tokens.to(dtype), mask, reference.to(dtype if dtype == torch.float64 else torch.float32))


def batch(objective: Objective, dtype: torch.dtype = torch.float64, **kwargs: Any) -> Logps | PairLogps:
    generator = torch.Generator().manual_seed(0)
    if objective.requires.data == "completions":
        return side(generator, dtype, **kwargs)
    return PairLogps(side(generator, dtype, **kwargs), side(generator, dtype, **kwargs))


def sides(value: Logps | PairLogps) -> list[Logps]:
    return [value] if isinstance(value, Logps) else [value.chosen, value.rejected]


def rebuilt(value: Logps | PairLogps, new: list[Logps]) -> Any:
    return new[0] if isinstance(value, Logps) else PairLogps(*new)


def test_every_objective_has_a_yaml_and_a_closed_form_test() -> None:
    root = Path(__file__).resolve().parents[2]
    assert len(OBJECTIVES) >= 2
    for name in OBJECTIVES:
        assert (root / "conf/objective" / f"{name}.yaml").is_file(), name
        assert (root / "tests/objectives" / f"test_{name}.py").is_file(), f"{name} has no closed-form test"


def test_loss_is_one_float32_number_per_example(objective: Objective) -> None:
    loss = objective(batch(objective, torch.float32))
    assert loss.shape == (B,)
    assert loss.dtype == torch.float32


def test_bfloat16_log_probs_are_summed_in_float32(objective: Objective) -> None:
    rough = batch(objective, torch.bfloat16)
    exact = rebuilt(rough, [Logps(s.tokens.double(), s.mask, s.reference.double()) for s in sides(rough)])
    loss = objective(rough)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), objective(exact), atol=1e-4, rtol=1e-5)


def test_inputs_are_not_changed(objective: Objective) -> None:
    value = batch(objective)
    before = copy.deepcopy([(s.tokens, s.mask, s.reference) for s in sides(value)])
    objective(value)
    for (tokens, mask, reference), s in zip(before, sides(value), strict=True):
        assert torch.equal(tokens.nan_to_num(), s.tokens.nan_to_num())
        assert torch.equal(mask, s.mask)
        assert torch.equal(reference, s.reference)


def test_permuting_the_batch_permutes_the_loss(objective: Objective) -> None:
    value, order = batch(objective), torch.tensor([3, 1, 5, 0, 2, 4])
    moved = rebuilt(value, [Logps(s.tokens[order], s.mask[order], s.reference[order]) for s in sides(value)])
    torch.testing.assert_close(objective(moved), objective(value)[order], atol=0, rtol=0)


def test_padding_changes_nothing(objective: Objective) -> None:
    plain, padded = batch(objective), batch(objective, extra=4)
    torch.testing.assert_close(objective(padded), objective(plain), atol=1e-12, rtol=0)


def test_gradient_is_the_finite_difference(objective: Objective) -> None:
    value = batch(objective)
    tokens = [s.tokens.clone().requires_grad_() for s in sides(value)]

    def total(*parts: torch.Tensor) -> torch.Tensor:
        new = [Logps(p, s.mask, s.reference) for p, s in zip(parts, sides(value), strict=True)]
        return objective(rebuilt(value, new))

    assert torch.autograd.gradcheck(total, tokens, atol=1e-6)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_finite_far_away(objective: Objective, size: float) -> None:
    """Log-ratios of +-1e4 where there is a reference, log-probabilities of -1e4 where there is none."""
    value = batch(objective, torch.float32)
    scale = 1.0 if objective.requires.reference else 1e4
    tokens = [(s.tokens * scale).requires_grad_() for s in sides(value)]
    far = [
        Logps(p, s.mask, s.logp("sum") - sign * size) for p, s, sign in zip(tokens, sides(value), (1, -1), strict=False)
    ]
    loss = objective(rebuilt(value, far))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert loss.detach().abs().max() > 100 or size > 0, "it is far away"
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in tokens)


def test_loss_at_reference_is_what_it_says(objective: Objective) -> None:
    value = batch(objective)
    same = rebuilt(value, [Logps(s.tokens, s.mask, s.logp("sum")) for s in sides(value)])
    if objective.loss_at_reference is None:
        assert not objective.requires.reference, "an objective with a reference knows its loss there"
        return
    torch.testing.assert_close(objective(same), torch.full((B,), objective.loss_at_reference, dtype=torch.float64))


def test_docstring_names_paper_and_equation(objective: Objective) -> None:
    text = sys.modules[type(objective).__module__].__doc__ or ""
    assert re.search(r"https://\S+", text)
    assert "eq" in text


def test_docstring_explains_every_field(objective: Objective) -> None:
    text = inspect.getdoc(type(objective)) or ""
    for field in (f.name for f in dataclasses.fields(objective)):
        assert f"{field}:" in text, field
