"""KTO, Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306, eq. 7 and 8 of its first version."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import check_same_shape, positive
from alignlab.errors import Problem
from alignlab.objectives.base import WithReference, one_label_remarks
from alignlab.types import LabelledLogps, Requires

# The weighted counts of good and bad answers should have a ratio from 1 up to this; 4/3 in the first version (eq. 8).
LARGEST_RATIO, LARGEST_RATIO_V1 = 3 / 2, 4 / 3


def kto_loss(
    logratio: torch.Tensor,
    desirable: torch.Tensor,
    kl: torch.Tensor,
    *,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> torch.Tensor:
    """λ_D [1 - σ(β(ρ - z0))] for good answers, λ_U [1 - σ(β(z0 - ρ))] for bad ones

    logratio: [B] nats; desirable: bool[B]; kl: scalar z0 >= 0, nats, no gradient. [B].
    """
    check_same_shape(logratio, desirable, rank=1)
    z = beta * (logratio - kl)
    return torch.where(desirable, desirable_weight * torch.sigmoid(-z), undesirable_weight * torch.sigmoid(z))


@dataclass
class KTO(WithReference):
    """Prospect theory on single answers, each said to be good or bad.

    The reference point z0 is the mean log-ratio of prompts with their neighbours' answers, over the global batch and
    all processes, and 0 where that is negative.

    beta:               strength of the leash to the reference, > 0.
    desirable_weight:   lambda_D, weight of good answers, > 0.
    undesirable_weight: lambda_U, weight of bad answers, > 0.
    """

    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    requires: ClassVar[Requires] = Requires(data="labelled", reference=True, mismatched=True)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        for key in ("desirable_weight", "undesirable_weight"):
            yield from positive(key, getattr(self, key), example=1.0)

    @property
    def loss_at_reference(self) -> float | None:
        return self.desirable_weight / 2 if self.desirable_weight == self.undesirable_weight else None

    def __call__(self, batch: LabelledLogps) -> torch.Tensor:
        return kto_loss(
            batch.answers.logratio("sum"),
            batch.desirable,
            _raw_kl(batch).clamp(min=0),
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )

    def metrics(self, batch: LabelledLogps) -> dict[str, torch.Tensor]:
        raw = _raw_kl(batch)
        return {"kl": raw.clamp(min=0), "kto/kl_raw": raw}

    def data_warnings(self, counts: Mapping[str, int]) -> Iterator[str]:
        good, bad = counts["desirable"], counts["undesirable"]
        weights = f"{self.desirable_weight:g} and {self.undesirable_weight:g}"
        yield f"KTO: {good} good and {bad} bad answers, weights {weights}"
        if not good or not bad:
            # the reference point is clamped to at least 0, so it can only follow good answers
            yield from one_label_remarks("KTO", counts, "The reference point z0" if good else "")
            return
        ratio = self.desirable_weight * good / (self.undesirable_weight * bad)
        if 1 - 1e-9 <= ratio <= LARGEST_RATIO:
            beyond = " (above the 4/3 of the paper's first version)" if ratio > LARGEST_RATIO_V1 else ""
            yield f"KTO: weighted counts have the ratio {ratio:.2f}, in [1, 3/2] as the paper asks{beyond}"
        else:
            # rounded towards a larger ratio, so that what is typed is never refused again
            good_weight = max(1.0, math.ceil(1000 * bad / good) / 1000)
            bad_weight = max(1.0, math.floor(1000 * good / bad) / 1000)
            yield (
                f"KTO: weighted counts have the ratio {ratio:.4g}, outside the paper's [1, 3/2]; "
                f"type: objective.desirable_weight={good_weight:.10g} objective.undesirable_weight={bad_weight:.10g}"
            )


def _raw_kl(batch: LabelledLogps) -> torch.Tensor:
    """Scalar mean log-ratio of the mismatched answers, nats, before it is held at 0."""
    if batch.mismatched is None:
        raise ValueError("this objective needs prompts with other rows' answers and the batch has none")
    return batch.mismatched.logratio("sum").mean().detach()
