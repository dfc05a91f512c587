"""DPO, Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, eq. 7.

With label smoothing it is cDPO, Mitchell 2023, https://ericmitchell.ai/cdpo.pdf, eq. 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from alignlab.checks import check_same_shape, within
from alignlab.errors import Problem
from alignlab.objectives.base import logsigmoid
from alignlab.objectives.divergence import DivergencePairs
from alignlab.types import PairLogps


def dpo_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float, label_smoothing: float = 0.0
) -> torch.Tensor:
    """(1 - ε) ℓ(βh) + ε ℓ(-βh), h = ρ_w - ρ_l

    chosen, rejected: [B] log-ratios (or f-divergence scores of them), nats.
    Returns [B], nats. Raises ValueError if shapes differ.
    """
    check_same_shape(chosen, rejected, rank=1)
    z = beta * (chosen - rejected)
    return -(1 - label_smoothing) * logsigmoid(z) - label_smoothing * logsigmoid(-z)  # eq. 3; eq. 7 at ε = 0


@dataclass
class DPO(DivergencePairs):
    """DPO on summed log-probabilities of the answer, including its end-of-sequence token.

    beta:             strength of the regularization towards the reference, > 0.
    divergence:       f-divergence of the regularization: reverse_kl (DPO), forward_kl, js or alpha.
    divergence_alpha: alpha of divergence=alpha; 1 is the reverse KL.
    label_smoothing:  assumed share of flipped preferences, in [0, 0.5). 0 is plain DPO; a larger share is cDPO.
    dialect:          the source whose convention is followed. TRL 1.x ignores label smoothing in its DPO, so trl1
                      rejects it.
    """

    label_smoothing: float = 0.0
    dialect: str = "paper"

    shift_invariant: ClassVar[bool] = True
    dialects: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {} for name in ("paper", "dpo_repo", "trl0", "trl1", "halos", "openrlhf")
    }

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from within(
            "label_smoothing", self.label_smoothing, 0.0, 0.5, example=0.1, closed=False, hint="share of flipped labels"
        )
        if self.dialect == "trl1" and self.label_smoothing > 0:
            text = "TRL 1.x ignores label_smoothing for loss_type=sigmoid: a cDPO recipe is plain DPO there"
            yield Problem("label_smoothing", self.label_smoothing, text, "label_smoothing=0")
        if self.dialect == "trl0" and self.divergence == "alpha" and self.divergence_alpha != 0.5:
            text = "TRL 0.x's alpha is 1 minus this one"
            yield Problem("dialect", self.dialect, text, "dialect=paper")

    def matching_dialects(self) -> list[str]:
        return [name for name in super().matching_dialects() if name != "trl1" or self.label_smoothing == 0]

    @property
    def loss_at_reference(self) -> float:
        return math.log(2.0)

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        return dpo_loss(*self.scores(batch), beta=self.beta, label_smoothing=self.label_smoothing)
