"""Base of all objectives: a plain dataclass of hyper-parameters with a pure `__call__`.

The docstrings of this package use one notation. w and l are the preferred and the dispreferred answer. lp and lr are
summed log-probabilities under the policy and the reference, ρ = lp - lr, h = ρ_w - ρ_l, and n is the number of answer
tokens. σ is the logistic function and ℓ(z) = -log σ(z).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from alignlab.checks import Checked, one_of, strength
from alignlab.errors import Problem
from alignlab.types import Logps, Requires

# The value of a field that takes its value from the dialect.
FROM_DIALECT = "dialect"

# A label is called rare if the other label has more than this many times as many rows.
RARE_LABEL_RATIO = 10


@dataclass
class Objective(Checked, ABC):
    """Base of all objectives. The dataclass is the config schema; `requires` decides loader, module and reference.

    If published code differs from the paper, the class has a field `dialect`, and `dialects` lists the field values of
    each dialect. A field with the value "dialect" takes its value from that table when the instance is created, so an
    instance shows effective values only.

    Raises ConfigError with all problems of the fields when an instance is created.
    """

    requires: ClassVar[Requires]
    # Name of the field that is the objective's regularization parameter; `strength` is an alias for it. The class
    # docstring states in which direction it acts. Every objective declares it; None means that it has none.
    strength: ClassVar[str | None] = None
    # Whether the loss never rises with a good answer's log-ratio (log-probability, reward). This is declared for the
    # field values in the objective's YAML.
    monotone: ClassVar[bool] = True
    # Whether the loss is unchanged if all log-ratios (rewards) of a row are shifted by the same constant.
    shift_invariant: ClassVar[bool] = False
    # Whether `monotone` and `shift_invariant` are declared. A mix does not declare them: they depend on its parts.
    declares_traits: ClassVar[bool] = True
    # Dialect -> field -> the field's value in that dialect.
    dialects: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __post_init__(self) -> None:
        if self.dialects:
            first = next(iter(self.dialects))  # used for an unknown dialect, which `problems` rejects
            self._fill_from(self.dialects.get(getattr(self, "dialect", first), self.dialects[first]))
        super().__post_init__()

    def _fill_from(self, dialect: Mapping[str, Any]) -> None:
        for field, value in dialect.items():
            if getattr(self, field) == FROM_DIALECT:
                setattr(self, field, value)

    def problems(self) -> Iterator[Problem]:
        if self.strength and not hasattr(self, self.strength):
            yield Problem("strength", self.strength, f"names a field that {type(self).__name__} does not have")
        if self.dialects:
            yield from one_of("dialect", getattr(self, "dialect", ""), self.dialects)

    def matching_dialects(self) -> list[str]:
        """All dialects whose values the fields have now. There may be none."""
        return [
            name
            for name, chosen in self.dialects.items()
            if all(getattr(self, field) == value for field, value in chosen.items())
        ]

    @property
    def reward_scale(self) -> float:
        """Factor between a log-ratio (nats) and the implicit reward that is logged (beta for the DPO family)."""
        return 1.0

    def reward(self, answers: Logps) -> torch.Tensor:
        """[B] implicit reward of answers: reward_scale times their summed log-ratio.

        For an objective without a reference it is reward_scale times their log-probability, reduced as the objective
        reduces it.
        """
        needs = self.requires
        return self.reward_scale * (answers.logratio("sum") if needs.reference else answers.logp(needs.length))

    @property
    def nondifferentiable_at_reference(self) -> bool:
        """Whether the gradient jumps where the policy equals its reference. Rounding then decides the first update."""
        return False

    @property
    def loss_at_reference(self) -> float | None:
        """Loss of every example while the policy equals its reference. None if it is not the same for all examples."""
        return None

    @abstractmethod
    def __call__(self, batch: Any) -> torch.Tensor:
        """[B] float32 loss of each example, to minimise. The loss of a step is the mean over the global batch.

        Raises ValueError if the batch lacks something that the objective needs.
        """

    def metrics(self, batch: Any) -> dict[str, torch.Tensor]:
        """Additional metrics of this objective over the global batch: name -> scalar."""
        return {}

    def initial_state(self) -> torch.Tensor | None:
        """State that the objective keeps between steps, before the first step. None for most objectives."""
        return None

    def next_state(self, batch: Any, state: torch.Tensor) -> torch.Tensor:
        """The state after a training batch. The loss of that batch is computed with the new state."""
        return state

    def data_warnings(self, counts: Mapping[str, int]) -> Iterator[str]:
        """Warnings and remarks to log before training. `counts` is the number of training rows of each kind."""
        return iter(())


@dataclass
class WithReference(Objective):
    """Base of objectives that are regularized towards a reference with a strength beta."""

    beta: float

    strength: ClassVar[str | None] = "beta"

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from strength("beta", self.beta, example=0.1, hint="strength of the regularization towards the reference")

    @property
    def reward_scale(self) -> float:
        return self.beta


def rare_label_remarks(name: str, counts: Mapping[str, int]) -> Iterator[str]:
    """Yield a remark if one label is rare. It is for objectives without weights that could make up for it."""
    few, many = sorted((counts["desirable"], counts["undesirable"]))
    if few and many > RARE_LABEL_RATIO * few:
        label = "good" if counts["desirable"] == few else "bad"
        yield (
            f"{name}: only {few} of {few + many} answers are {label}, and all rows have the same weight. "
            "objective=kto has weights that make up for it"
        )


@dataclass
class ReferencePairs(WithReference):
    """Base of objectives on the log-ratios of pairs."""

    requires: ClassVar[Requires] = Requires(data="pairs", reference=True)


def logsigmoid(x: torch.Tensor) -> torch.Tensor:
    """log σ(x) = -log(1 + exp(-x)), finite for every finite x."""
    return torch.nn.functional.logsigmoid(x)


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x < 0, accurate near 0 and far below it. The two branches meet at -ln 2."""
    split = -0.6931471805599453
    near, far = x.clamp(min=split), x.clamp(max=split)  # so each branch is finite where the other one is used
    return torch.where(x > split, torch.log(-torch.expm1(near)), torch.log1p(-torch.exp(far)))
