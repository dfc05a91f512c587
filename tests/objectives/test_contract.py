"""The contract of all objectives. They are found by discovery, so a new file in alignlab/objectives is tested too."""

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
from hydra import compose, initialize_config_dir

from alignlab.config.catalogue import formula
from alignlab.config.composer import without_hydra
from alignlab.config.paths import conf_dir
from alignlab.config.preflight import to_train
from alignlab.config.registry import schemas
from alignlab.errors import ConfigError
from alignlab.objectives.base import Objective
from alignlab.objectives.mix import Mix
from alignlab.types import LabelledLogps, Logps, PairLogps, RankedRewards, RolloutLogps, map_tensors
from tests.config.test_conf_files import NEEDS

OBJECTIVES = sorted(schemas()["objective"])
B, T, K = 6, 9, 3
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def composed() -> dict[str, Objective]:
    """Every objective with the values that its YAML chooses."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        asked = {name: [f"objective={name}", *NEEDS.get(f"objective/{name}", [])] for name in OBJECTIVES}
        return {name: to_train(without_hydra(compose("train", words))).objective for name, words in asked.items()}


@pytest.fixture(params=OBJECTIVES)
def objective(request: pytest.FixtureRequest, composed: dict[str, Objective]) -> Objective:
    return composed[request.param]


class Draw:
    """Random batches of the shape that an objective needs. They are the same in every run."""

    def __init__(self, objective: Objective, dtype: torch.dtype = torch.float64, extra: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.needs, self.dtype, self.extra = objective.requires, dtype, extra

    def batch(self, objective: Objective) -> Any:
        shape = self.needs.data
        if shape == "completions":
            return self.logps()
        if shape == "pairs":
            return PairLogps(self.logps(), self.logps())
        if shape == "rankings":
            return RankedRewards(
                self.normal(B, K).to(self.dtype),
                torch.ones(B, K, dtype=torch.bool),
                torch.arange(K).flip(0).float().expand(B, K),
                torch.full((B,), 0.5) if self.needs.margin else None,
            )
        if shape == "rollouts":
            return self.rollouts()
        other = self.logps()
        other = dataclasses.replace(other, reference=other.reference - 5)  # a KL estimate well above 0
        desirable = torch.arange(B) % 2 == 0
        batch = LabelledLogps(self.logps(), desirable, other if self.needs.mismatched else None)
        state = objective.initial_state()
        return batch if state is None else dataclasses.replace(batch, state=objective.next_state(batch, state))

    def logps(self) -> Logps:
        tokens = -torch.rand(B, T, generator=self.generator, dtype=torch.float64) * 3
        lengths = torch.randint(1, T + 1, (B,), generator=self.generator)
        mask = torch.arange(T + self.extra)[None] < lengths[:, None]
        tokens = self.wide(tokens, float("nan"))
        reference_tokens = tokens + self.wide(self.normal(B, T) / lengths[:, None], float("nan"))
        floats = self.dtype if self.dtype == torch.float64 else torch.float32
        return Logps(
            tokens.to(self.dtype),
            mask,
            reference=torch.where(mask, reference_tokens, 0.0).sum(1).to(floats),
            reference_tokens=reference_tokens.to(floats) if self.needs.reference_tokens else None,
            reference_kl=self.normal(B).abs().to(floats) if self.needs.reference_kl else None,
            collision=(tokens - self.wide(self.normal(B, T), float("nan"))).to(floats)
            if self.needs.collision
            else None,
        )

    def rollouts(self) -> RolloutLogps:
        answers = self.logps()
        floats = self.dtype if self.dtype == torch.float64 else torch.float32

        def table(scale: float = 1.0) -> torch.Tensor:
            drawn = self.wide(scale * self.normal(B, T), 0.0).to(floats)
            return torch.where(answers.mask, drawn, 0.0)

        return RolloutLogps(
            answers,
            torch.where(answers.mask, answers.tokens.to(floats), 0.0) + table(0.05),
            table(),
            torch.full((B,), T),
            values=table(),
            old_values=table(),
            returns=table(),
        )

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def wide(self, values: torch.Tensor, filler: float) -> torch.Tensor:
        return torch.cat([values, torch.full((B, self.extra), filler, dtype=torch.float64)], dim=1)


def drawn(objective: Objective, dtype: torch.dtype = torch.float64, extra: int = 0) -> Any:
    return Draw(objective, dtype, extra).batch(objective)


def sides(value: Any) -> list[Logps]:
    """The log-probabilities of a batch that have a gradient."""
    if isinstance(value, Logps):
        return [value]
    return [value.chosen, value.rejected] if isinstance(value, PairLogps) else [value.answers]


def with_sides(value: Any, new: list[Logps]) -> Any:
    if isinstance(value, Logps):
        return new[0]
    return PairLogps(*new) if isinstance(value, PairLogps) else dataclasses.replace(value, answers=new[0])


def moved(value: Any, good: float, bad: float, *, reference: bool) -> Any:
    """The batch with `good` added to log-ratios (log-probabilities, rewards) of good answers, `bad` to bad ones'."""
    if isinstance(value, RankedRewards):
        return dataclasses.replace(value, rewards=value.rewards + torch.tensor([good, *[bad] * (K - 1)]))
    reference = reference and not isinstance(
        value, RolloutLogps
    )  # the loss of rollouts does not depend on the reference
    amounts = [good, bad] if isinstance(value, PairLogps) else [good]
    if isinstance(value, LabelledLogps):
        amounts = [torch.where(value.desirable, good, bad)]  # type: ignore[list-item]
    new = []
    for side, amount in zip(sides(value), amounts, strict=True):
        if reference:
            share = amount / side.count if side.reference_tokens is None else torch.as_tensor(amount / side.count)
            tokens = None if side.reference_tokens is None else side.reference_tokens - share[:, None]
            new.append(dataclasses.replace(side, reference=side.reference - amount, reference_tokens=tokens))
        else:
            new.append(dataclasses.replace(side, tokens=side.tokens + (amount / side.count)[:, None]))
    return with_sides(value, new)


def test_every_objective_has_a_yaml_and_a_closed_form_test() -> None:
    assert len(OBJECTIVES) >= 36
    for name in OBJECTIVES:
        assert (ROOT / "conf/objective" / f"{name}.yaml").is_file(), name
        test = ROOT / "tests/objectives" / f"test_{name}.py"
        assert test.is_file(), f"{name} has no closed-form test"
        assert f"objectives.{name} import" in test.read_text(), f"{test} does not test {name}"


def test_loss_is_one_float32_number_per_example(objective: Objective) -> None:
    loss = objective(drawn(objective, torch.float32))
    assert loss.shape == (B,)
    assert loss.dtype == torch.float32


def test_bfloat16_log_probs_are_summed_in_float32(objective: Objective) -> None:
    rough = drawn(objective, torch.bfloat16)
    if isinstance(rough, RankedRewards):
        return  # rewards come from the head in float32 (models/heads.py)
    exact = map_tensors(rough, lambda t: t.double() if t.is_floating_point() else t)
    loss = objective(rough)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), objective(exact), atol=1e-4, rtol=1e-5)


def test_inputs_are_not_changed(objective: Objective) -> None:
    value = drawn(objective)
    before = copy.deepcopy(value)
    objective(value)
    objective.metrics(value)
    seen: list[torch.Tensor] = []
    for batch in (before, value):
        map_tensors(batch, lambda t: seen.append(t) or t)
    half = len(seen) // 2
    assert half >= 2
    for first, second in zip(seen[:half], seen[half:], strict=True):
        assert torch.equal(first.nan_to_num(), second.nan_to_num())


def test_permuting_the_batch_permutes_the_loss(objective: Objective) -> None:
    value, order = drawn(objective), torch.tensor([3, 1, 5, 0, 2, 4])
    state = getattr(value, "state", None)
    permuted = map_tensors(value, lambda t: t if t is state else t[order])
    torch.testing.assert_close(objective(permuted), objective(value)[order], atol=1e-12, rtol=1e-12)


def test_rows_stand_alone_unless_the_objective_says_otherwise(objective: Objective) -> None:
    """Three of six rows have the same losses as in the whole batch, unless the objective declares `couples_batch`."""
    value, rows = drawn(objective), torch.tensor([1, 3, 4])
    state = getattr(value, "state", None)
    half = map_tensors(value, lambda t: t if t is state else t[rows])
    if not isinstance(value, RankedRewards):
        mean = float(sides(value)[0].count.double().mean())
        half = with_sides(half, [dataclasses.replace(side, mean_count=mean) for side in sides(half)])
    if getattr(value, "mismatched", None) is not None:  # every part gets those of the whole batch
        half = dataclasses.replace(half, mismatched=value.mismatched)
    alone = torch.allclose(objective(half), objective(value)[rows], atol=1e-12, rtol=0)
    couples = objective.requires.couples_batch
    assert alone != couples or (couples and objective.initial_state() is not None)


def test_padding_changes_nothing(objective: Objective) -> None:
    plain, padded = drawn(objective), drawn(objective, extra=4)
    torch.testing.assert_close(objective(padded), objective(plain), atol=1e-12, rtol=0)


def test_gradient_is_the_finite_difference(objective: Objective) -> None:
    value = drawn(objective)
    if isinstance(value, RankedRewards):
        rewards = value.rewards.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda r: objective(dataclasses.replace(value, rewards=r)), [rewards])
        return
    # weights of WPO are constants to the gradient but not to a finite difference, so they are held fixed
    held = [dataclasses.replace(s, collision=s.tokens.clone()) if s.collision is not None else s for s in sides(value)]
    tokens = [s.tokens.clone().requires_grad_() for s in held]

    def total(*parts: torch.Tensor) -> torch.Tensor:
        new = [dataclasses.replace(s, tokens=p) for p, s in zip(parts, held, strict=True)]
        new = [dataclasses.replace(s, collision=s.tokens.detach()) if s.collision is not None else s for s in new]
        return objective(with_sides(value, new))

    assert torch.autograd.gradcheck(total, tokens, atol=1e-6)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_finite_far_away(objective: Objective, size: float) -> None:
    """Log-ratios are +-1e4 with a reference; without one, log-probabilities or rewards are +-1e4."""
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
    assert torch.isfinite(loss).all()
    assert all(p.grad is not None and torch.isfinite(p.grad.nan_to_num()).all() for p in inputs)
    assert any((p.grad != 0).any() for p in inputs) or loss.abs().max() < 1e4, "far away, or flat there"


def scaled(side: Logps, by: float) -> Logps:
    return dataclasses.replace(side, tokens=side.tokens * by)


def test_loss_at_reference_is_what_it_says(objective: Objective) -> None:
    if not objective.requires.reference:
        assert objective.loss_at_reference is None
        return

    def at_reference(side: Logps) -> Logps:
        return dataclasses.replace(
            side,
            reference=side.logp("sum"),
            reference_tokens=None if side.reference_tokens is None else side.tokens,
            reference_kl=None if side.reference_kl is None else torch.zeros(B, dtype=torch.float64),
        )

    value = drawn(objective)
    value = with_sides(value, [at_reference(side) for side in sides(value)])
    if isinstance(value, LabelledLogps):
        other = None if value.mismatched is None else at_reference(value.mismatched)
        state = objective.initial_state()
        value = dataclasses.replace(value, mismatched=other, state=state)
    loss = objective(value)
    if objective.loss_at_reference is None:
        assert loss.std() > 1e-3, "a constant that the objective does not tell"
    else:
        torch.testing.assert_close(loss, torch.full((B,), objective.loss_at_reference, dtype=torch.float64))


@pytest.mark.parametrize("trait", ["monotone", "shift_invariant"])
def test_declared_traits_hold(objective: Objective, trait: str) -> None:
    """A property that is not declared does not hold: there is a counterexample in steps from -3000 to 3000."""
    value = drawn(objective)
    by_reference = objective.requires.reference
    steps = [-3000.0, -30.0, -3.0, 0.0, 3.0, 30.0, 70.0, 300.0, 3000.0] if by_reference else [-3.0, -2.0, -1.0, 0.0]
    if trait == "monotone":
        losses = torch.stack([objective(moved(value, step, 0.0, reference=by_reference)).mean() for step in steps])
        holds = bool((losses.diff() <= 1e-9).all())
    else:
        losses = torch.stack([objective(moved(value, step, step, reference=by_reference)) for step in steps])
        holds = bool((losses - losses[0]).abs().max() < 1e-9)
    if not isinstance(objective, Mix):  # a mix declares nothing, because it depends on its parts
        assert holds == getattr(objective, trait)


def test_every_objective_declares_its_strength(objective: Objective) -> None:
    """It is declared in the class or in the base of a family, and its field rejects negative values."""
    cls = type(objective)
    assert any("strength" in vars(base) for base in cls.__mro__ if base is not Objective)
    if cls.strength is not None:
        assert isinstance(getattr(objective, cls.strength), float)
        with pytest.raises(ConfigError):
            dataclasses.replace(objective, **{cls.strength: -1.0})


def test_docstrings_name_the_paper_and_the_formula(objective: Objective) -> None:
    module = sys.modules[type(objective).__module__]
    assert re.search(r"https://\S+", (module.__doc__ or "").partition("\n")[0]), "first line names the source"
    assert len(formula(type(objective))) > 4


def test_docstring_explains_every_field(objective: Objective) -> None:
    text = inspect.getdoc(type(objective)) or ""
    for field in (f.name for f in dataclasses.fields(objective)):
        assert f"{field}:" in text, field


def test_every_number_has_values_that_are_refused(objective: Objective) -> None:
    """NaN and minus infinity are rejected in every number, and the problem names the field."""
    for field in dataclasses.fields(objective):
        if isinstance(getattr(objective, field.name), float):
            for bad in (float("nan"), float("-inf")):
                with pytest.raises(ConfigError) as caught:
                    dataclasses.replace(objective, **{field.name: bad})
                assert field.name in [p.key for p in caught.value.problems]


def test_every_word_has_values_that_are_refused(objective: Objective) -> None:
    for field in dataclasses.fields(objective):
        if isinstance(getattr(objective, field.name), str):
            with pytest.raises(ConfigError) as caught:
                dataclasses.replace(objective, **{field.name: "nonsense"})
            assert field.name in [p.key for p in caught.value.problems]


def test_every_dialect_sets_only_fields_that_there_are(objective: Objective) -> None:
    names = {f.name for f in dataclasses.fields(objective)}
    assert ("dialect" in names) == bool(objective.dialects)
    for chosen in objective.dialects.values():
        assert set(chosen) <= names - {"dialect"}
