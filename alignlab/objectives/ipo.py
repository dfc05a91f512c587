"""IPO, Azar et al. 2023, https://arxiv.org/abs/2310.12036, eq. 17."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch

from alignlab.checks import check_same_shape, one_of, strength
from alignlab.errors import Problem
from alignlab.objectives.base import FROM_DIALECT, Objective
from alignlab.objectives.divergence import DEFAULT_ALPHA, divergence_problems, pair_scores
from alignlab.types import PairLogps, Reduction, Requires


def ipo_loss(chosen: torch.Tensor, rejected: torch.Tensor, *, tau: float) -> torch.Tensor:
    """(h - 1 / (2τ))²

    chosen, rejected: [B] log-ratios (or f-divergence scores of them), summed or per token, nats.
    Returns [B], nats squared. Raises ValueError if shapes differ.
    """
    check_same_shape(chosen, rejected, rank=1)
    return (chosen - rejected - 1 / (2 * tau)) ** 2


@dataclass
class IPO(Objective):
    """Regression of the log-ratio margin to 1 / (2 tau), the root of the paper's regularised preference problem.

    tau:              strength of the regularization towards the reference, > 0.
    divergence:       f-divergence of the regularization: reverse_kl, forward_kl, js or alpha.
    divergence_alpha: alpha of divergence=alpha; 1 is the reverse KL.
    reduction:        of log-ratios over the tokens of an answer: sum (as in the paper) or mean. The two need different
                      values of tau.
    dialect:          the source of `reduction`: sum in the paper, the DPO authors' repository and OpenRLHF; mean in TRL
                      and HALOs.
    """

    tau: float
    divergence: str = "reverse_kl"
    divergence_alpha: float = DEFAULT_ALPHA
    reduction: str = FROM_DIALECT
    dialect: str = "paper"

    monotone: ClassVar[bool] = False
    shift_invariant: ClassVar[bool] = True
    strength: ClassVar[str | None] = "tau"
    requires: ClassVar[Requires] = Requires(data="pairs", reference=True)
    dialects: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"reduction": "sum"},
        "dpo_repo": {"reduction": "sum"},
        "openrlhf": {"reduction": "sum"},
        "trl1": {"reduction": "mean"},
        "trl0": {"reduction": "mean"},
        "halos": {"reduction": "mean"},
    }

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from strength("tau", self.tau, example=0.1, hint="the target of the margin is 1 / (2 tau)")
        yield from divergence_problems(self.divergence, self.divergence_alpha)
        yield from one_of("reduction", self.reduction, ("sum", "mean"))

    @property
    def reward_scale(self) -> float:
        return self.tau

    @property
    def loss_at_reference(self) -> float:
        return 1 / (4 * self.tau**2)

    def __call__(self, batch: PairLogps) -> torch.Tensor:
        reduction = cast(Reduction, self.reduction)
        return ipo_loss(*pair_scores(batch, self.divergence, self.divergence_alpha, reduction), tau=self.tau)

    def data_warnings(self, counts: Mapping[str, int]) -> Iterator[str]:
        unit = "nats per token" if self.reduction == "mean" else "nats"
        yield f"IPO's target for the log-ratio margin is 1 / (2 tau) = {1 / (2 * self.tau):g} {unit}"
        if self.reduction == "mean" and self.tau >= 1:
            yield f"IPO: tau = {self.tau:g} is large for reduction=mean. Usual: 0.01 to 0.5 for mean, 1 or more for sum"
