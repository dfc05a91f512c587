"""Bases of online objectives that turn the policy's own answers into pairs, or into answers to imitate."""

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

# A pair of sampled answers: index of the prompt, index of the preferred answer (None: the data's own answer), and index
# of the dispreferred answer.
GeneratedPair = tuple[int, int | None, int]


@dataclass(kw_only=True)
class GeneratedPairs(Online):
    """Base of online objectives that apply an objective on pairs to pairs of sampled answers.

    loss:     name of an objective on pairs.
    beta:     strength of that objective (DPO's beta, IPO's tau), > 0.
    settings: other fields of that objective, to replace their defaults.
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
        """The pairs to train on, prompt by prompt."""


@dataclass(kw_only=True)
class Imitation(Online):
    """Base of online objectives that imitate the best of the policy's answers."""

    strength: ClassVar[str | None] = None
    requires: ClassVar[Requires] = Requires(data="completions", online=True)

    @abstractmethod
    def kept(self, rollouts: Rollouts) -> torch.Tensor:
        """bool[P, K], True for answers to imitate. Every prompt has at least one."""


def best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """bool[P, K], True for the `count` answers of each prompt with the highest scores. The first one wins a tie."""
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
    return (scores != scores).scatter(1, order, True)


def _fits(cls: type[Objective]) -> bool:
    """Whether the objective takes pairs, has a strength, and needs nothing that sampled answers lack."""
    needs = cls.requires
    fixed = cls.strength is not None and not isinstance(needs, property)
    return fixed and needs.data == "pairs" and not (needs.reference_kl or needs.margin)
