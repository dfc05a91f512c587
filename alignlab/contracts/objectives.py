"""The contracts of objectives."""

from __future__ import annotations

import copy
import dataclasses
import re
import sys
from collections.abc import Iterator
from typing import Any

import torch

from alignlab.config.catalogue import formula
from alignlab.contracts.base import (
    Contract,
    docstring_explains_every_field,
    every_number_has_values_that_are_refused,
    every_word_has_values_that_are_refused,
)
from alignlab.contracts.batches import B, drawn, moved, scaled, sides, with_sides
from alignlab.errors import ConfigError
from alignlab.objectives.base import Objective
from alignlab.tracking.metrics import PART, definitions
from alignlab.types import LabelledLogps, Logps, RankedRewards, RolloutLogps, map_tensors

# Changes of a log-ratio for the traits. They reach far, because a property must hold everywhere.
_WITH_REFERENCE = (-3000.0, -30.0, -3.0, 0.0, 3.0, 30.0, 70.0, 300.0, 3000.0)
_WITHOUT_REFERENCE = (-3.0, -2.0, -1.0, 0.0)


def _far(found: torch.Tensor, wanted: torch.Tensor, atol: float, rtol: float = 0.0) -> str:
    """How far two losses are apart; empty if they are close or if both are NaN."""
    if torch.allclose(found, wanted, atol=atol, rtol=rtol, equal_nan=True):
        return ""
    return f"by up to {float((found - wanted).abs().max()):.3g}"


def loss_is_one_float32_number_per_example(objective: Objective) -> Iterator[str]:
    """The loss is one float32 number for each example."""
    loss = objective(drawn(objective, torch.float32))
    if loss.shape != (B,) or loss.dtype != torch.float32:
        yield f"for {B} examples in float32 the loss has shape {tuple(loss.shape)} and dtype {loss.dtype}"


def bfloat16_log_probs_are_summed_in_float32(objective: Objective) -> Iterator[str]:
    """Log-probabilities in bfloat16 are summed in float32."""
    rough = drawn(objective, torch.bfloat16)
    if isinstance(rough, RankedRewards):
        return  # rewards come from the head in float32 (models/heads.py)
    exact = map_tensors(rough, lambda t: t.double() if t.is_floating_point() else t)
    loss = objective(rough)
    if loss.dtype != torch.float32:
        yield f"the loss of bfloat16 log-probabilities has dtype {loss.dtype}"
    elif far := _far(loss.double(), objective(exact), 1e-4, 1e-5):
        yield f"the loss of bfloat16 log-probabilities differs from that of the same numbers in float64 {far}"


def inputs_are_not_changed(objective: Objective) -> Iterator[str]:
    """Loss and metrics do not change their inputs."""
    value = drawn(objective)
    before = copy.deepcopy(value)
    objective(value)
    objective.metrics(value)
    seen: list[torch.Tensor] = []
    for batch in (before, value):
        map_tensors(batch, lambda t: seen.append(t) or t)  # type: ignore[func-returns-value]
    half = len(seen) // 2
    if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(seen[:half], seen[half:], strict=True)):
        yield "a tensor of the batch was changed"


def permuting_the_batch_permutes_the_loss(objective: Objective) -> Iterator[str]:
    """Permuting the examples permutes the losses."""
    value, order = drawn(objective), torch.tensor([3, 1, 5, 0, 2, 4])
    state = getattr(value, "state", None)
    permuted = map_tensors(value, lambda t: t if t is state else t[order])
    if far := _far(objective(permuted), objective(value)[order], 1e-12, 1e-12):
        yield f"the losses of permuted examples differ {far}"


def rows_stand_alone_unless_the_objective_says_otherwise(objective: Objective) -> Iterator[str]:
    """Three of six examples have the losses that they have among six, unless `requires.couples_batch` is declared."""
    value, rows = drawn(objective), torch.tensor([1, 3, 4])
    state = getattr(value, "state", None)
    half = map_tensors(value, lambda t: t if t is state else t[rows])
    if not isinstance(value, RankedRewards):
        mean = float(sides(value)[0].count.double().mean())
        half = with_sides(half, [dataclasses.replace(side, mean_count=mean) for side in sides(half)])
    if getattr(value, "mismatched", None) is not None:  # every part gets those of the whole batch
        half = dataclasses.replace(half, mismatched=value.mismatched)
    alone = torch.allclose(objective(half), objective(value)[rows], atol=1e-12, rtol=0)
    if not alone and not objective.requires.couples_batch:
        yield "an example's loss depends on other examples; declare requires.couples_batch"
    if alone and objective.requires.couples_batch and objective.initial_state() is None:
        yield "requires.couples_batch is declared, but examples do not depend on each other"


def padding_changes_nothing(objective: Objective) -> Iterator[str]:
    """Padding, which is NaN here, changes nothing."""
    if far := _far(objective(drawn(objective, extra=4)), objective(drawn(objective)), 1e-12):
        yield f"four more columns of padding change the loss {far}; use the mask"


def gradient_is_the_finite_difference(objective: Objective) -> Iterator[str]:
    """The gradient is the finite difference of the loss."""
    value = drawn(objective)
    if isinstance(value, RankedRewards):
        rewards = value.rewards.clone().requires_grad_()
        right = torch.autograd.gradcheck(
            lambda r: objective(dataclasses.replace(value, rewards=r)), [rewards], raise_exception=False
        )
    else:
        # Weights of WPO are constants to the gradient but not to a finite difference, so they are held fixed.
        held = [
            dataclasses.replace(s, collision=s.tokens.clone()) if s.collision is not None else s for s in sides(value)
        ]
        tokens = [s.tokens.clone().requires_grad_() for s in held]

        def total(*parts: torch.Tensor) -> torch.Tensor:
            new = [dataclasses.replace(s, tokens=p) for p, s in zip(parts, held, strict=True)]
            new = [dataclasses.replace(s, collision=s.tokens.detach()) if s.collision is not None else s for s in new]
            return objective(with_sides(value, new))

        right = torch.autograd.gradcheck(total, tokens, atol=1e-6, raise_exception=False)
    if not right:
        yield "the gradient is not the finite difference; a part of the loss may be detached or rounded"


def finite_far_away(objective: Objective) -> Iterator[str]:
    """Loss and gradient are finite at log-ratios (without a reference: log-probabilities) of +-10,000."""
    for size in (1e4, -1e4):
        value = drawn(objective, torch.float32)
        if isinstance(value, RankedRewards):
            rewards = (value.rewards * size).requires_grad_()
            loss = objective(dataclasses.replace(value, rewards=rewards))
            inputs = [rewards]
        else:
            if not objective.requires.reference:
                ends = (1e4, 1.0) if size > 0 else (1.0, 1e4)
                value = with_sides(value, [scaled(side, by) for side, by in zip(sides(value), ends, strict=False)])
            else:
                value = moved(value, size, -size, reference=True)
            inputs = [side.tokens.clone().requires_grad_() for side in sides(value)]
            new = [dataclasses.replace(side, tokens=t) for side, t in zip(sides(value), inputs, strict=True)]
            loss = objective(with_sides(value, new))
        loss.sum().backward()
        if not torch.isfinite(loss).all():
            yield f"the loss is not finite at {size:g}"
        elif any(p.grad is None or not torch.isfinite(p.grad.nan_to_num()).all() for p in inputs):
            yield f"the gradient is not finite at {size:g}"
        elif not any(p.grad.any() for p in inputs if p.grad is not None) and not loss.abs().max() < 1e4:
            yield f"the gradient is 0 at {size:g}, where the loss is large"


def _at_reference(objective: Objective) -> Any:
    """A batch in which the policy equals its reference."""

    def same(side: Logps) -> Logps:
        return dataclasses.replace(
            side,
            reference=side.logp("sum"),
            reference_tokens=None if side.reference_tokens is None else side.tokens,
            reference_kl=None if side.reference_kl is None else torch.zeros(B, dtype=torch.float64),
        )

    value = drawn(objective)
    value = with_sides(value, [same(side) for side in sides(value)])
    if isinstance(value, LabelledLogps):
        other = None if value.mismatched is None else same(value.mismatched)
        value = dataclasses.replace(value, mismatched=other, state=objective.initial_state())
    return value


def good_answers_are_preferred(objective: Objective) -> Iterator[str]:
    """The mean loss is lower if good answers gain log-probability and bad ones lose it than the other way round."""
    by_reference = objective.requires.reference
    value = _at_reference(objective) if by_reference else drawn(objective)
    if isinstance(value, RolloutLogps):
        return  # the advantage of an answer says whether it is good
    up, down = (30.0, -30.0) if by_reference else (0.0, -3.0)
    for_good, for_bad = (
        float(objective(moved(value, *steps, reference=by_reference)).mean()) for steps in ((up, down), (down, up))
    )
    if not for_good < for_bad:
        yield f"the loss is {for_good:.4g} if good answers gain, and {for_bad:.4g} if bad ones do: is a sign wrong?"


def loss_at_reference_is_what_it_says(objective: Objective) -> Iterator[str]:
    """`loss_at_reference` is the loss of every example while the policy equals its reference."""
    if not objective.requires.reference:
        if objective.loss_at_reference is not None:
            yield "loss_at_reference is declared, but the objective has no reference"
        return

    value = _at_reference(objective)
    loss, declared = objective(value), objective.loss_at_reference
    if declared is None:
        if loss.std() <= 1e-3:
            yield f"the loss is {float(loss[0]):.6g} for every example; declare loss_at_reference"
    elif far := _far(loss, torch.full((B,), declared, dtype=torch.float64), 1e-7, 1e-7):
        yield f"the loss differs from loss_at_reference={declared:.6g} {far}"


def declared_traits_hold(objective: Objective) -> Iterator[str]:
    """`monotone` and `shift_invariant` are true if they hold for changes from -3000 to 3000, and false if not."""
    if not objective.declares_traits:
        return
    value = drawn(objective)
    by_reference = objective.requires.reference
    steps = _WITH_REFERENCE if by_reference else _WITHOUT_REFERENCE
    means = torch.stack([objective(moved(value, step, 0.0, reference=by_reference)).mean() for step in steps])
    shifted = torch.stack([objective(moved(value, step, step, reference=by_reference)) for step in steps])
    found = {
        "monotone": bool((means.diff() <= 1e-9).all()),
        "shift_invariant": bool((shifted - shifted[0]).abs().max() < 1e-9),
    }
    for trait, holds in found.items():
        if holds != getattr(objective, trait):
            yield f"{trait} is declared {getattr(objective, trait)}, but it is {holds}"


def strength_is_declared(objective: Objective) -> Iterator[str]:
    """The class or the base of its family declares `strength`, a float field that refuses -1, or None."""
    cls = type(objective)
    if not any("strength" in vars(base) for base in cls.__mro__ if base is not Objective):
        yield f"{cls.__name__} does not declare `strength`: the name of its regularization parameter, or None"
    if cls.strength is not None:
        if not isinstance(getattr(objective, cls.strength), float):
            yield f"strength={cls.strength} is not a float"
            return
        try:
            dataclasses.replace(objective, **{cls.strength: -1.0})
            yield f"{cls.strength}=-1 is not refused"
        except ConfigError:
            pass


def docstrings_name_the_paper_and_the_formula(objective: Objective) -> Iterator[str]:
    """`<module>_loss` has the formula in its docstring. A module of alignlab also names its paper with an address."""
    module = sys.modules[type(objective).__module__]
    own = module.__name__.startswith("alignlab.")  # an objective of a plug-in may be new
    if own and not re.search(r"https://\S+", (module.__doc__ or "").partition("\n")[0]):
        yield "the first line of the module's docstring has no address (https://...) of the paper"
    name = f"{module.__name__.rpartition('.')[2]}_loss"
    if not hasattr(module, name):
        yield f"the module has no function {name}"
    elif len(formula(type(objective))) <= 4:
        yield f"the first line of the docstring of {name} is not the formula"


def dialects_set_only_fields_that_there_are(objective: Objective) -> Iterator[str]:
    """An objective with dialects has a field `dialect`, and each dialect sets fields of the objective only."""
    names = {f.name for f in dataclasses.fields(objective)}
    if ("dialect" in names) != bool(objective.dialects):
        yield "a field `dialect` and a table `dialects` go together"
    for name, chosen in objective.dialects.items():
        if others := sorted(set(chosen) - (names - {"dialect"})):
            yield f"dialect {name} sets {', '.join(others)}, which are no fields"


def metrics_are_defined(objective: Objective) -> Iterator[str]:
    """Every metric of the objective has a definition in tracking/metrics.py."""
    names = [name for name in objective.metrics(drawn(objective)) if not name.startswith(PART)]
    if unknown := [name for name in names if f"train/{name}" not in definitions()]:
        yield f"metrics without a definition: {', '.join(unknown)}"


CONTRACTS: tuple[Contract, ...] = (
    loss_is_one_float32_number_per_example,
    bfloat16_log_probs_are_summed_in_float32,
    inputs_are_not_changed,
    permuting_the_batch_permutes_the_loss,
    rows_stand_alone_unless_the_objective_says_otherwise,
    padding_changes_nothing,
    gradient_is_the_finite_difference,
    finite_far_away,
    loss_at_reference_is_what_it_says,
    good_answers_are_preferred,
    declared_traits_hold,
    strength_is_declared,
    docstrings_name_the_paper_and_the_formula,
    docstring_explains_every_field,
    every_number_has_values_that_are_refused,
    every_word_has_values_that_are_refused,
    dialects_set_only_fields_that_there_are,
    metrics_are_defined,
)
