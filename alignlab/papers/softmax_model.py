"""The smallest language model with a hidden state: one context, a hidden vector and an unembedding of each token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from alignlab.types import Logps, PairLogps

# Tokens of `no_never_yes`.
NO, NEVER, YES, OTHER = range(4)


@dataclass(frozen=True, eq=False)
class SoftmaxModel:
    """log pi = log_softmax(W h).

    unembedding: [V, D] W.
    hidden:      [D] h.
    """

    unembedding: torch.Tensor
    hidden: torch.Tensor

    def logps(self) -> torch.Tensor:
        """[V] log-probability of each token, nats."""
        return torch.log_softmax(self.unembedding @ self.hidden, dim=0)

    def pair(self, better: int, worse: int, reference: torch.Tensor) -> PairLogps:
        """A batch of one pair of one-token answers, given the reference's log-probabilities [V]."""
        policy, mask = self.logps(), torch.ones(1, 1, dtype=torch.bool)
        first, second = (Logps(policy[t].view(1, 1), mask, reference[t].view(1)) for t in (better, worse))
        return PairLogps(first, second)


def no_never_yes() -> SoftmaxModel:
    """Four tokens of which Yes is near No (in the sense of Razin et al. 2024), and Never has the same logit as No."""
    rows = torch.tensor([[3.0, 0.0], [3.0, -2.0], [2.3, 5.0], [0.0, -1.0]], dtype=torch.float64)
    return SoftmaxModel(rows, torch.tensor([1.0, 0.0], dtype=torch.float64))


def descend(
    start: SoftmaxModel, pair: tuple[int, int], loss: Callable[[PairLogps], torch.Tensor], *, rate: float, steps: int
) -> list[torch.Tensor]:
    """Gradient descent on one pair (preferred, dispreferred). Returns the probabilities [V] before each step and after.

    The hidden state and the unembedding are trained; the reference is the start.
    """
    unembedding, hidden = start.unembedding.clone().requires_grad_(), start.hidden.clone().requires_grad_()
    model, reference = SoftmaxModel(unembedding, hidden), start.logps().detach()
    optimizer = torch.optim.SGD([unembedding, hidden], lr=rate)
    path = [model.logps().exp().detach()]
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model.pair(*pair, reference)).sum().backward()
        optimizer.step()
        path.append(model.logps().exp().detach())
    return path
