"""AdamW, Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alignlab.checks import positive, within
from alignlab.errors import Problem
from alignlab.optim.base import Optim


@dataclass(kw_only=True)
class AdamW(Optim):
    """torch.optim.AdamW."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from within("beta1", self.beta1, 0.0, 1.0, example=0.9, closed=False)
        yield from within("beta2", self.beta2, 0.0, 1.0, example=0.999, closed=False)
        yield from positive("eps", self.eps, example=1e-8)

    def build(self, parameters: Any) -> Any:
        from torch.optim import AdamW as TorchAdamW

        return TorchAdamW(
            parameters, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, weight_decay=self.weight_decay
        )
