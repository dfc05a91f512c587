"""Updates of several models at once equal the updates of torch's optimizers for each model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from alignlab.optim.adamw import AdamW
from alignlab.optim.adamw_8bit import AdamW8bit
from alignlab.optim.rmsprop import RMSprop
from alignlab.vectorized.joint_objective import with_numbers

CASES = {
    "adamw": [
        AdamW(lr=1e-2),
        AdamW(lr=1e-3, weight_decay=0.1, beta1=0.5, beta2=0.9),
        AdamW(lr=3e-3, eps=1e-3, beta2=0.95),
    ],
    "rmsprop": [RMSprop(lr=1e-2), RMSprop(lr=1e-3, weight_decay=0.1, alpha=0.9), RMSprop(lr=3e-3, eps=1e-2)],
}


@pytest.mark.parametrize("name", CASES)
def test_update_is_torchs(name: str) -> None:
    """Ten steps from N(0, 1) weights, with changing gradients and falling rates, are equal up to float32 rounding."""
    optims: list[Any] = CASES[name]
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 5, generator=generator)
    gradients = torch.randn(10, 3, 5, generator=generator)
    alone = [start[p].clone().requires_grad_() for p in range(3)]
    built = [optim.build([weights]) for optim, weights in zip(optims, alone, strict=True)]
    together = with_numbers(optims, lambda numbers: numbers.double()[:, None])
    weights, moments = start, {name: torch.zeros(3, 5) for name in together.moments}
    for step, gradient in enumerate(gradients):
        rates = torch.tensor([[optim.lr * (1 - step / 20)] for optim in optims], dtype=torch.float64)
        weights = together.update(weights, gradient, moments, rates, step + 1)
        for p, optimizer in enumerate(built):
            optimizer.param_groups[0]["lr"] = float(rates[p])
            alone[p].grad = gradient[p].clone()
            optimizer.step()
    torch.testing.assert_close(weights, torch.stack([w.detach() for w in alone]), rtol=2e-6, atol=2e-7)
    assert set(moments) <= set(built[0].state[alone[0]]), "torch's names"


def test_rounded_moments_are_not_stacked() -> None:
    assert AdamW8bit.moments is None
