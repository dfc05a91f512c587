"""APO-zero on single answers, D'Oosterlinck et al. 2024, https://arxiv.org/abs/2408.06266, the two halves of eq. 7."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import check_same_shape
from alignlab.objectives.base import WithReference, rare_label_remarks
from alignlab.types import LabelledLogps, Requires


def apo_zero_unpaired_loss(logratio: torch.Tensor, desirable: torch.Tensor, *, beta: float) -> torch.Tensor:
    """1 - σ(βρ) for good answers, σ(βρ) for bad ones

    logratio: [B] nats; desirable: bool[B], True for good answers.
    Returns [B], in (0, 1). Raises ValueError if shapes differ.
    """
    check_same_shape(logratio, desirable, rank=1)
    return torch.sigmoid(torch.where(desirable, -beta * logratio, beta * logratio))


@dataclass
class APOZeroUnpaired(WithReference):
    """KTO with its reference point fixed at 0, so that it needs no mismatched answers.

    beta: strength of the regularization towards the reference, > 0.
    """

    requires: ClassVar[Requires] = Requires(data="labelled", reference=True)

    @property
    def loss_at_reference(self) -> float:
        return 0.5

    def __call__(self, batch: LabelledLogps) -> torch.Tensor:
        return apo_zero_unpaired_loss(batch.answers.logratio("sum"), batch.desirable, beta=self.beta)

    def data_warnings(self, counts: Mapping[str, int]) -> Iterator[str]:
        if "desirable" in counts:  # a mix with pairs has no such counts
            yield from rare_label_remarks("APO-zero", counts)
