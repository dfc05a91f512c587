"""What every objective is: a plain dataclass of hyper-parameters with a pure `__call__`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from alignlab.checks import Checked, one_of, positive
from alignlab.errors import Problem
from alignlab.types import Logps, Requires

# What a field says that takes its value from the dialect.
FROM_DIALECT = "dialect"

# A label is called rare if the other label has more than this many times as many rows.
RARE_LABEL_RATIO = 10


@dataclass
class Objective(Checked, ABC):
    """Base of all objectives. The dataclass is the config schema; `requires` decides loader, module and reference.

    Where published code differs from the paper, the class has a field `dialect` and a table `dialects` of what each
    one sets; fields that say "dialect" are filled from it when the instance is made, so an instance shows only
    effective values.
    """

    requires: ClassVar[Requires]
    # The field that decides how far the objective goes from where it starts, for which `strength` is another name; its
    # docstring says which way it acts. Every objective declares its own, or with None that it has none.
    strength: ClassVar[str | None] = None
    # The loss never rises with a good answer's log-ratio (log-probability, reward); with the values its YAML chooses.
    monotone: ClassVar[bool] = True
    # The loss does not change when all log-ratios (rewards) of a row are shifted by the same constant.
    shift_invariant: ClassVar[bool] = False
    dialects: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __post_init__(self) -> None:
        if self.dialects:
            first = next(iter(self.dialects))  # stands in for a dialect that there is not, which is refused below
            self._fill_from(self.dialects.get(getattr(self, "dialect", first), self.dialects[first]))
        super().__post_init__()

    def _fill_from(self, dialect: Mapping[str, Any]) -> None:
        for field, value in dialect.items():
            if getattr(self, field) == FROM_DIALECT:
                setattr(self, field, value)

    def problems(self) -> Iterator[Problem]:
        if self.dialects:
            yield from one_of("dialect", getattr(self, "dialect", ""), self.dialects)

    def matching_dialects(self) -> list[str]:
        """All dialects whose convention the fields follow, as they are; it may be none."""
        return [
            name
            for name, chosen in self.dialects.items()
            if all(getattr(self, field) == value for field, value in chosen.items())
        ]

    @property
    def reward_scale(self) -> float:
        """What turns a log-ratio into the implicit reward that is logged (beta for the DPO family)."""
        return 1.0

    def reward(self, answers: Logps) -> torch.Tensor:
        """[B] implicit reward of answers: reward_scale times their summed log-ratio; for an objective without a
        reference, times their log-probability as it reduces it.
        """
        needs = self.requires
        return self.reward_scale * (answers.logratio("sum") if needs.reference else answers.logp(needs.length))

    @property
    def nondifferentiable_at_reference(self) -> bool:
        """Whether the gradient jumps where the policy equals its reference, where training begins: rounding decides."""
        return False

    @property
    def loss_at_reference(self) -> float | None:
        """Loss of every example while the policy still equals its reference; None where there is no such constant."""
        return None

    @abstractmethod
    def __call__(self, batch: Any) -> torch.Tensor:
        """[B] float32 loss of each example, to be minimised; the mean over the global batch is the loss."""

    def metrics(self, batch: Any) -> dict[str, torch.Tensor]:
        """Scalars of its own that this objective wants logged, over the global batch."""
        return {}

    def initial_state(self) -> torch.Tensor | None:
        """What the objective keeps from step to step, before the first; None for most."""
        return None

    def next_state(self, batch: Any, state: torch.Tensor) -> torch.Tensor:
        """The state with a training batch taken in; the loss of that batch is computed with it."""
        return state

    def data_warnings(self, counts: Mapping[str, int]) -> Iterator[str]:
        """What the user should be told before training, given the training data's counts by kind of row."""
        return iter(())


@dataclass
class WithReference(Objective):
    """Base of objectives that are held to a reference with a strength beta."""

    beta: float

    strength: ClassVar[str | None] = "beta"

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from positive("beta", self.beta, example=0.1, hint="strength of the leash to the reference")

    @property
    def reward_scale(self) -> float:
        return self.beta


def one_label_remarks(name: str, counts: Mapping[str, int], follows: str = "") -> Iterator[str]:
    """A remark if all answers are good or all are bad, for losses that are monotone in each log-ratio.

    follows: the name of a quantity without gradient that the loss compares log-ratios with and that follows them; empty
             if there is none.
    """
    good, bad = counts["desirable"], counts["undesirable"]
    if bool(good) == bool(bad):
        return
    label, other, way = ("good", "bad", "up") if good else ("bad", "good", "down")
    hidden = f" {follows} can follow the log-ratios, and the loss then does not show it." if follows else ""
    instead = (
        "objective=sft, or add bad answers" if good else "add good answers; these do not say what to answer instead"
    )
    yield (
        f"{name}: all {good or bad} answers are {label}, none is {other}. Every row pushes the log-ratio of its answer "
        f"{way} and none pushes back: the loss has no minimum, and the policy moves away from the reference until "
        f"training ends.{hidden} Better: {instead}"
    )


def rare_label_remarks(name: str, counts: Mapping[str, int]) -> Iterator[str]:
    """A remark if one label is rare, for objectives without weights that make up for it."""
    few, many = sorted((counts["desirable"], counts["undesirable"]))
    if few and many > RARE_LABEL_RATIO * few:
        label = "good" if counts["desirable"] == few else "bad"
        yield (
            f"{name}: {few} of {few + many} answers are {label}, and all rows weigh the same; objective=kto has "
            "weights that make up for it"
        )


@dataclass
class ReferencePairs(WithReference):
    """Base of objectives on the log-ratios of pairs."""

    requires: ClassVar[Requires] = Requires(data="pairs", reference=True)


def logsigmoid(x: torch.Tensor) -> torch.Tensor:
    """log σ(x) = -log(1 + exp(-x)), finite for every finite x."""
    return torch.nn.functional.logsigmoid(x)


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x < 0, without cancellation at either end (the branch is at -ln 2)."""
    split = -0.6931471805599453
    near, far = x.clamp(min=split), x.clamp(max=split)  # each branch stays finite where the other one is taken
    return torch.where(x > split, torch.log(-torch.expm1(near)), torch.log1p(-torch.exp(far)))
