"""DPO, Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, eq. 7.

With label smoothing it is cDPO, Mitchell 2023, https://ericmitchell.ai/cdpo.pdf, eq. 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from alignlab.checks import check_same_shape, positive, within
from alignlab.errors import Problem
from alignlab.objectives.base import Objective
from alignlab.types import PairLogps, Requires


def dpo_loss(
    chosen_logratio: Tensor, rejected_logratio: Tensor, *, beta: float, label_smoothing: float = 0.0
) -> Tensor:
    """-(1 - e) log s(beta h) - e log s(-beta h), with h = log pi/ref(y_w|x) - log pi/ref(y_l|x).

    [B], [B] -> [B]; nats. Raises ValueError where the shapes differ.
    """
    check_same_shape(chosen_logratio, rejected_logratio, rank=1)
    z = beta * (chosen_logratio - rejected_logratio)
    return -(1 - label_smoothing) * logsigmoid(z) - label_smoothing * logsigmoid(-z)  # eq. 3; eq. 7 at e = 0


@dataclass
class DPO(Objective):
    """DPO on summed log-probabilities of the answer, end-of-sequence token included.

    beta:            strength of the leash to the reference, > 0.
    label_smoothing: assumed share of flipped preferences, in [0, 0.5); 0 is plain DPO.
    """

    beta: float
    label_smoothing: float = 0.0

    requires: ClassVar[Requires] = Requires(data="pairs", reference=True, length="sum")

    def problems(self) -> Iterator[Problem]:
        yield from positive("beta", self.beta, example=0.1, hint="strength of the leash to the reference")
        yield from within(
            "label_smoothing", self.label_smoothing, 0.0, 0.5, example=0.1, closed=False, hint="share of flipped labels"
        )

    @property
    def reward_scale(self) -> float:
        return self.beta

    @property
    def loss_at_reference(self) -> float:
        return math.log(2.0)

    def __call__(self, batch: PairLogps) -> Tensor:
        length = self.requires.length
        return dpo_loss(
            batch.chosen.logratio(length),
            batch.rejected.logratio(length),
            beta=self.beta,
            label_smoothing=self.label_smoothing,
        )
