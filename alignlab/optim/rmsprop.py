"""RMSprop, the optimizer of the DPO paper (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, appendix B).

Its state is half as large as Adam's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from alignlab.checks import positive, within
from alignlab.errors import Problem
from alignlab.optim.base import Optim, like


@dataclass(kw_only=True)
class RMSprop(Optim):
    """torch.optim.RMSprop.

    alpha: decay rate of the running mean of g^2, in [0, 1).
    eps:   added to the root of that mean, > 0.
    """

    alpha: float = 0.99
    eps: float = 1e-8

    moments: ClassVar[tuple[str, ...] | None] = ("square_avg",)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from within("alpha", self.alpha, 0.0, 1.0, example=0.99, closed=False)
        yield from positive("eps", self.eps, example=1e-8)

    def build(self, parameters: Any) -> Any:
        from torch.optim import RMSprop as TorchRMSprop

        return TorchRMSprop(parameters, lr=self.lr, alpha=self.alpha, eps=self.eps, weight_decay=self.weight_decay)

    def update(
        self,
        weights: torch.Tensor,
        gradient: torch.Tensor,
        moments: dict[str, torch.Tensor],
        rate: float | torch.Tensor,
        step: int,
    ) -> torch.Tensor:
        """theta - eta g / (sqrt(v) + eps), v being the running mean of g^2. Weight decay is added to the gradient."""
        square = moments["square_avg"]
        gradient = gradient + like(self.weight_decay, weights) * weights
        square.mul_(like(self.alpha, weights)).add_(gradient * gradient * like(1 - self.alpha, weights))
        return weights - like(rate, weights) * gradient / (square.sqrt() + like(self.eps, weights))
