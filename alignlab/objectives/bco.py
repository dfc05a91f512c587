"""BCO, Jung et al. 2024, https://arxiv.org/abs/2404.04656."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from alignlab.checks import check_same_shape, one_of
from alignlab.errors import Problem
from alignlab.objectives.base import FROM_DIALECT, WithReference, logsigmoid, rare_label_remarks
from alignlab.types import LabelledLogps, Requires


def bco_loss(logratio: torch.Tensor, desirable: torch.Tensor, shift: torch.Tensor, *, beta: float) -> torch.Tensor:
    """ℓ(βρ - δ) for good answers, ℓ(δ - βρ) for bad ones, δ = ½ (mean βρ of good + mean βρ of bad) so far

    logratio: [B] nats; desirable: bool[B], True for good answers; shift: scalar δ, nats, no gradient.
    Returns [B], nats. Raises ValueError if shapes differ.
    """
    check_same_shape(logratio, desirable, rank=1)
    z = beta * logratio - shift
    return -logsigmoid(torch.where(desirable, z, -z))


@dataclass
class BCO(WithReference):
    """A binary classifier of good and bad answers, whose logit is the implicit reward.

    A pair is split into two rows, and their mean is the pair's loss. It is half of the pair's loss in code that sums
    the two.

    beta:    strength of the regularization towards the reference, > 0.
    shift:   running: the mean reward over all batches so far is subtracted, with the same weight for both classes;
             none: nothing is subtracted.
    dialect: the source of `shift`: running in the paper, none in TRL 1.x (bco_pair).
    """

    shift: str = FROM_DIALECT
    dialect: str = "paper"

    dialects: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"shift": "running"}, "trl1": {"shift": "none"}}

    @property
    def requires(self) -> Requires:  # type: ignore[override]
        """The running shift needs the whole batch: it is a mean over this batch and all batches before it."""
        return Requires(data="labelled", reference=True, couples_batch=self.shift == "running")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from one_of("shift", self.shift, ("running", "none"))

    @property
    def loss_at_reference(self) -> float:
        return math.log(2.0)

    def initial_state(self) -> torch.Tensor | None:
        """float64[4]: sum of rewards and number of rows of good answers, then of bad answers. None without a shift."""
        return torch.zeros(4, dtype=torch.float64) if self.shift == "running" else None

    def next_state(self, batch: LabelledLogps, state: torch.Tensor) -> torch.Tensor:
        # on the CPU, because not every device has float64
        reward = self.beta * batch.answers.logratio("sum").detach().cpu().double()
        good = batch.desirable.cpu().double()
        bad = 1 - good
        batch_sums = torch.stack([(good * reward).sum(), good.sum(), (bad * reward).sum(), bad.sum()])
        return state + batch_sums

    def __call__(self, batch: LabelledLogps) -> torch.Tensor:
        logratio = batch.answers.logratio("sum")
        return bco_loss(logratio, batch.desirable, self._delta(batch).to(logratio), beta=self.beta)

    def metrics(self, batch: LabelledLogps) -> dict[str, torch.Tensor]:
        return {"bco/delta": self._delta(batch)}

    def data_warnings(self, counts: Mapping[str, int]) -> Iterator[str]:
        if "desirable" in counts:  # a mix with pairs has no such counts
            yield from rare_label_remarks("BCO", counts)

    def _delta(self, batch: LabelledLogps) -> torch.Tensor:
        """Scalar: mean of the two class means of the rewards so far. A class without rows so far is left out."""
        if batch.state is None:
            return torch.zeros(())
        totals, counts = batch.state[[0, 2]], batch.state[[1, 3]]
        seen = counts > 0
        return (totals[seen] / counts[seen]).mean() if seen.any() else torch.zeros(())
