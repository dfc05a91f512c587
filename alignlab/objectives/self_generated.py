"""Bases of objectives that turn the policy's own answers into pairs, or into answers to imitate."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch

from alignlab.errors import Problem
from alignlab.objectives.base import Objective
from alignlab.objectives.mix import make_part, offline_objectives, part_problems
from alignlab.objectives.online import Online
from alignlab.types import Logps, PairLogps, Requires, Rollouts

# A fresh pair: its prompt, which of the prompt's answers is preferred (None: the data's own), and to which one.
GeneratedPair = tuple[int, int | None, int]


@dataclass(kw_only=True)
class GeneratedPairs(Online):
    """Base of objectives that put an objective on pairs to fresh ones.

    loss:     name of the objective on pairs.
    beta:     its strength, whatever that is called there (DPO's beta, IPO's tau), > 0.
    settings: its other fields, where they are not the ones it has by itself.
    """

    loss: str = "dpo"
    beta: float
    settings: dict[str, Any] = field(default_factory=dict)

    strength: ClassVar[str | None] = "beta"

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        fitting = [name for name, cls in offline_objectives().items() if _fits(cls)]
        if self.loss not in fitting:
            text = f"must name an objective on pairs with a strength: {', '.join(fitting)}"
            yield Problem("loss", self.loss, text, "loss=dpo")
            return
        own = offline_objectives()[self.loss].strength
        for problem in part_problems("", self._part):
            key = problem.key.lstrip(".")
            name = "beta" if key == own else f"settings.{key}"
            yield replace(problem, key=name, type_this=problem.type_this.replace(f"{key}=", f"{name}=").lstrip("."))

    @property
    def requires(self) -> Requires:  # type: ignore[override]
        return replace(self.inner.requires, online=True)

    @property
    def reward_scale(self) -> float:
        return self.inner.reward_scale

    def reward(self, answers: Logps) -> torch.Tensor:
        return self.inner.reward(answers)

    @cached_property
    def inner(self) -> Objective:
        """The objective on pairs."""
        return make_part(self._part)

    @property
    def _part(self) -> dict[str, Any]:
        return {"name": self.loss, str(offline_objectives()[self.loss].strength): self.beta, **self.settings}

    def metrics(self, batch: PairLogps) -> dict[str, torch.Tensor]:
        return self.inner.metrics(batch)

    @property
    def loss_at_reference(self) -> float | None:
        return self.inner.loss_at_reference

    @property
    def monotone(self) -> bool:  # type: ignore[override]
        return self.inner.monotone

    @property
    def shift_invariant(self) -> bool:  # type: ignore[override]
        return self.inner.shift_invariant

    @abstractmethod
    def pairs(self, rollouts: Rollouts) -> list[GeneratedPair]:
        """What is preferred to what, prompt by prompt."""


@dataclass(kw_only=True)
class Imitation(Online):
    """Base of objectives that imitate those of the policy's answers that are good enough."""

    strength: ClassVar[str | None] = None
    requires: ClassVar[Requires] = Requires(data="completions", online=True)

    @abstractmethod
    def kept(self, rollouts: Rollouts) -> torch.Tensor:
        """bool[P, K], True for answers to imitate; somewhere for every prompt."""


def best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """bool[P, K], True for the `count` answers of each prompt with the highest scores; of equal ones the first."""
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
    return (scores != scores).scatter(1, order, True)


def _fits(cls: type[Objective]) -> bool:
    """Whether it takes pairs, and what can be known of fresh answers is enough for it."""
    needs = cls.requires
    fixed = cls.strength is not None and not isinstance(needs, property)
    return fixed and needs.data == "pairs" and not (needs.reference_kl or needs.margin)
