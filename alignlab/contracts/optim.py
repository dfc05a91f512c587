"""The contracts of optimizers and schedules."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from alignlab.contracts.base import EVERY_PART, Contract
from alignlab.optim.base import Optim
from alignlab.optim.schedules.base import Schedule


def it_is_a_torch_optimizer(optim: Optim) -> Iterator[str]:
    """`build` returns a torch optimizer with the peak learning rate."""
    made = optim.build([torch.nn.Parameter(torch.ones(3))])
    if not isinstance(made, torch.optim.Optimizer):
        yield f"build returns a {type(made).__name__}"
    elif any(group["lr"] != optim.lr for group in made.param_groups):
        yield f"the learning rate is {made.param_groups[0]['lr']}, not lr={optim.lr}"


def it_goes_down(optim: Optim) -> Iterator[str]:
    """A hundred updates of a quadratic bring it closer to its minimum."""
    weights = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    made, start = optim.build([weights]), float(weights.detach().square().sum())
    for _ in range(100):
        made.zero_grad()
        weights.square().sum().backward()
        made.step()
    if not float(weights.detach().square().sum()) < start:
        yield f"the loss is {float(weights.detach().square().sum()):g} after 100 updates, from {start:g}"


def update_is_that_of_the_optimizer(optim: Optim) -> Iterator[str]:
    """`update`, if `moments` declares it, computes what the torch optimizer computes."""
    if optim.moments is None:
        return
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(5))
    rows, made = parameter.detach().clone()[None], optim.build([parameter])
    moments = {name: torch.zeros(1, 5) for name in optim.moments}
    for step in range(1, 4):
        gradient = torch.randn(5)
        parameter.grad = gradient.clone()
        made.step()
        rows = optim.update(rows, gradient[None], moments, optim.lr, step)
        if not torch.allclose(rows[0], parameter.detach(), atol=1e-6):
            yield f"after update {step}, `update` differs by {float((rows[0] - parameter.detach()).abs().max()):.3g}"
            return


def factors_are_shares(optim: Optim) -> Iterator[str]:
    """The learning rate of each of 100 updates is a share of the peak, from 0 to 1."""
    if wrong := [factor for step in range(100) if not 0 <= (factor := optim.factor(step, 100)) <= 1]:
        yield f"factor returns {wrong[0]}"


def schedules_are_shares(schedule: Schedule) -> Iterator[str]:
    """The factor is a finite share from 0 to 1 during the whole training, and is not 0 at its beginning."""
    found = [schedule.factor(step / 100) for step in range(100)]
    if wrong := [factor for factor in found if not (math.isfinite(factor) and 0 <= factor <= 1)]:
        yield f"factor returns {wrong[0]}"
    if found[0] == 0:
        yield "factor(0) is 0, so nothing is learnt at first"


CONTRACTS: tuple[Contract, ...] = (
    *EVERY_PART,
    it_is_a_torch_optimizer,
    it_goes_down,
    update_is_that_of_the_optimizer,
    factors_are_shares,
)
SCHEDULES: tuple[Contract, ...] = (schedules_are_shares,)
