"""Random batches of the shape that an objective needs, and changes to them, for the contracts of objectives."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from alignlab.objectives.base import Objective
from alignlab.types import LabelledLogps, Logps, PairLogps, RankedRewards, RolloutLogps

# Rows, tokens of an answer, and answers of a ranking.
B, T, K = 6, 9, 3


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
        assert other.reference is not None
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
            assert side.reference is not None
            new.append(dataclasses.replace(side, reference=side.reference - amount, reference_tokens=tokens))
        else:
            new.append(dataclasses.replace(side, tokens=side.tokens + (amount / side.count)[:, None]))
    return with_sides(value, new)


def scaled(side: Logps, by: float) -> Logps:
    """The answers with their log-probabilities multiplied."""
    return dataclasses.replace(side, tokens=side.tokens * by)
