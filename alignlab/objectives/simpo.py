"""SimPO, Meng et al. 2024, https://arxiv.org/abs/2405.14734, eq. 6."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from alignlab.checks import at_least, check_same_shape, one_of, strength
from alignlab.errors import Problem
from alignlab.objectives.base import FROM_DIALECT, Objective, logsigmoid
from alignlab.types import PairLogps, Requires


def simpo_loss(chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float, gamma: float) -> torch.Tensor:
    """ℓ(β (lp_w/n_w - lp_l/n_l) - γ)

    chosen, rejected: [B] log-probabilities per token, nats.
    Returns [B], nats. Raises ValueError if shapes differ.
    """
    check_same_shape(chosen, rejected, rank=1)
    return -logsigmoid(beta * (chosen - rejected) - gamma)


@dataclass
class SimPO(Objective):
    """A margin between log-probabilities per token, without a reference.

    beta:    scale of the log-probabilities per token, > 0. With a larger beta, a smaller difference is enough.
    gamma:   target margin, >= 0, in the unit that `margin` selects.
    margin:  absolute: gamma is subtracted from beta times the difference, as in eq. 6; ratio: gamma times beta is
             subtracted. With ratio, a sweep over beta keeps the target difference of log-probabilities per token.
    dialect: the source of `margin`: absolute in the paper and TRL; ratio in the authors' repository (simpo_repo) and
             HALOs.
    """

    beta: float
    gamma: float
    margin: str = FROM_DIALECT
    dialect: str = "paper"

    strength: ClassVar[str | None] = "beta"
    requires: ClassVar[Requires] = Requires(data="pairs", length="mean")
    dialects: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"margin": "absolute"},
        "trl1": {"margin": "absolute"},
        "trl0": {"margin": "absolute"},
        "simpo_repo": {"margin": "ratio"},
        "halos": {"margin": "ratio"},
    }

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from strength("beta", self.beta, example=2.5)
        yield from at_least("gamma", self.gamma, 0.0, example=1.4)
        yield from one_of("margin", self.margin, ("absolute", "ratio"))

    @property
    def reward_scale(self) -> float:
        return self.beta

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        gamma = self.gamma * (self.beta if self.margin == "ratio" else 1.0)
        return simpo_loss(batch.chosen.logp("mean"), batch.rejected.logp("mean"), beta=self.beta, gamma=gamma)
