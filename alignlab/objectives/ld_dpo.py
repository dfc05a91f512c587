"""LD-DPO (length desensitised), Liu et al. 2024, https://arxiv.org/abs/2409.06411, eq. 10."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from alignlab.checks import check_same_shape, one_of, within
from alignlab.errors import Problem
from alignlab.objectives.base import FROM_DIALECT, ReferencePairs, logsigmoid
from alignlab.types import Logps, PairLogps, Requires


def ld_dpo_loss(chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float) -> torch.Tensor:
    """ℓ(βh), tokens after the first min(n_w, n_l) of the longer answer weighted by α

    chosen, rejected: [B] log-ratios, already weighted, nats.
    Returns [B], nats. Raises ValueError if shapes differ.
    """
    check_same_shape(chosen, rejected, rank=1)
    return -logsigmoid(beta * (chosen - rejected))


@dataclass
class LDDPO(ReferencePairs):
    """DPO that gives less weight to the tokens of the longer answer beyond the length of the shorter one.

    beta:           strength of the regularization towards the reference, > 0.
    alpha:          weight of those tokens, in [0, 1]; 1 is DPO.
    reference_tail: weighted: the reference's log-probabilities of those tokens are weighted too; whole: they count in
                    full, so the loss does not start at ln 2.
    dialect:        the source of `reference_tail`: weighted in TRL 1.x, whole in TRL 0.x and LLaMA-Factory.
    """

    alpha: float = 0.5
    reference_tail: str = FROM_DIALECT
    dialect: str = "trl1"

    requires: ClassVar[Requires] = Requires(data="pairs", reference=True, reference_tokens=True)
    dialects: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "trl1": {"reference_tail": "weighted"},
        "trl0": {"reference_tail": "whole"},
        "llama_factory": {"reference_tail": "whole"},
    }

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from within("alpha", self.alpha, 0.0, 1.0, example=0.5, hint="1 is DPO")
        yield from one_of("reference_tail", self.reference_tail, ("weighted", "whole"))

    @property
    def loss_at_reference(self) -> float | None:
        return math.log(2.0) if self.reference_tail == "weighted" or self.alpha == 1 else None

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        shared = torch.minimum(batch.chosen.count, batch.rejected.count)
        return ld_dpo_loss(self._logratio(batch.chosen, shared), self._logratio(batch.rejected, shared), beta=self.beta)

    def _logratio(self, side: Logps, shared: torch.Tensor) -> torch.Tensor:
        if side.reference_tokens is None:
            raise ValueError("this objective needs reference log-probabilities token by token and the batch has none")
        weight = self.alpha if self.reference_tail == "weighted" else 1.0
        return side.tail_weighted(side.tokens, shared, self.alpha) - side.tail_weighted(
            side.reference_tokens, shared, weight
        )
