"""AdamW, Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from alignlab.checks import positive, within
from alignlab.errors import Problem
from alignlab.optim.base import Optim, like


@dataclass(kw_only=True)
class AdamW(Optim):
    """torch.optim.AdamW.

    beta1, beta2: decay rates of the running means of g and g^2, in [0, 1).
    eps:          added to the root of the second moment, > 0.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    moments: ClassVar[tuple[str, ...] | None] = ("exp_avg", "exp_avg_sq")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from within("beta1", self.beta1, 0.0, 1.0, example=0.9, closed=False)
        yield from within("beta2", self.beta2, 0.0, 1.0, example=0.999, closed=False)
        yield from positive("eps", self.eps, example=1e-8)

    def build(self, parameters: Any) -> Any:
        from torch.optim import AdamW as TorchAdamW

        return TorchAdamW(
            parameters,
            lr=self.lr,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,  # one pass over the weights, on CPUs too
        )

    def update(
        self,
        weights: torch.Tensor,
        gradient: torch.Tensor,
        moments: dict[str, torch.Tensor],
        rate: float | torch.Tensor,
        step: int,
    ) -> torch.Tensor:
        """theta - eta lambda theta - eta m^ / (sqrt(v^) + eps): algorithm 2, with bias-corrected moments m^ and v^."""
        first, second = moments["exp_avg"], moments["exp_avg_sq"]
        first.lerp_(gradient, like(1 - self.beta1, weights))
        second.mul_(like(self.beta2, weights)).add_(gradient * gradient * like(1 - self.beta2, weights))
        spread = second.sqrt() / like((1 - self.beta2**step) ** 0.5, weights) + like(self.eps, weights)
        decayed = weights * like(1 - rate * self.weight_decay, weights)
        return decayed - like(rate / (1 - self.beta1**step), weights) * first / spread
