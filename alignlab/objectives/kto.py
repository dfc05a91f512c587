"""KTO, Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306, eq. 7 and 8 of its first version."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import check_same_shape, positive
from alignlab.errors import Problem
from alignlab.objectives.base import WithReference
from alignlab.spelling import counted
from alignlab.types import LabelledLogps, Requires

# The ratio of the weighted counts of good and bad answers should lie between 1 and this. The limit was 4/3 in the
# paper's first version (eq. 8).
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

    logratio:  [B] log-ratios, nats.
    desirable: bool[B], True for good answers.
    kl:        scalar z0 >= 0, nats, without a gradient.
    Returns [B]. Raises ValueError if shapes differ.
    """
    check_same_shape(logratio, desirable, rank=1)
    z = beta * (logratio - kl)
    return torch.where(desirable, desirable_weight * torch.sigmoid(-z), undesirable_weight * torch.sigmoid(z))


@dataclass
class KTO(WithReference):
    """A loss from prospect theory on single answers, each labelled good or bad.

    The reference point z0 is the mean log-ratio of prompts with other rows' answers, over the global batch and all
    processes. A negative mean is replaced by 0.

    beta:               strength of the regularization towards the reference, > 0.
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
        yield f"KTO: {good} good and {counted(bad, 'bad answer')}, with weights {weights}"
        if not good or not bad:  # the audit of the data warns of it
            return
        ratio = self.desirable_weight * good / (self.undesirable_weight * bad)
        if 1 - 1e-9 <= ratio <= LARGEST_RATIO:
            beyond = " (above the 4/3 of the paper's first version)" if ratio > LARGEST_RATIO_V1 else ""
            yield f"KTO: the ratio of the weighted counts is {ratio:.2f}, within the paper's [1, 3/2]{beyond}"
        else:
            # rounded towards a larger ratio, so that the suggested weights give a ratio of at least 1
            good_weight = max(1.0, math.ceil(1000 * bad / good) / 1000)
            bad_weight = max(1.0, math.floor(1000 * good / bad) / 1000)
            yield (
                f"KTO: the ratio of the weighted counts is {ratio:.4g}, outside the paper's [1, 3/2]; "
                f"type: objective.desirable_weight={good_weight:.10g} objective.undesirable_weight={bad_weight:.10g}"
            )


def _raw_kl(batch: LabelledLogps) -> torch.Tensor:
    """Scalar: mean log-ratio of the mismatched answers, nats, before negative values are replaced by 0."""
    if batch.mismatched is None:
        raise ValueError("this objective needs prompts with other rows' answers and the batch has none")
    return batch.mismatched.logratio("sum").mean().detach()
