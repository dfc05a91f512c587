"""A policy over an enumerable world that is a table: the probabilities of the next token after every prefix.

Every distribution over the completions is such a table, so this class has no restriction by a model.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from alignlab.lab.world import World
from alignlab.types import Logps, PairLogps

Array = NDArray[np.float64]

# Log-probabilities of the start below this are raised to it, so that logits stay finite.
_LOWEST = -60.0


class TreePolicy:
    """Next-token logits after every prefix, which start at those of a reference.

    world:     its completions are the leaves of the tree.
    reference: [X, N] log-probabilities of all completions, nats.
    """

    def __init__(self, world: World, reference: Array) -> None:
        self.reference = torch.as_tensor(reference)
        self.logits = [torch.as_tensor(step).requires_grad_() for step in _next_tokens(world, reference)]
        tokens, v = torch.as_tensor(world.tokens), world.symbols
        before = torch.cat([torch.zeros(len(tokens), 1, dtype=torch.bool), (tokens == v).cumsum(1)[:, :-1] > 0], dim=1)
        self.mask = ~before  # [N, L]
        self._token = tokens
        self._prefix = torch.zeros_like(tokens)
        for depth in range(1, world.length):
            letter = tokens[:, depth - 1].clamp(max=v - 1)
            self._prefix[:, depth] = torch.where(self.mask[:, depth], self._prefix[:, depth - 1] * v + letter, 0)

    def token_logps(self) -> torch.Tensor:
        """[X, N, L] log-probability of each token of each completion, nats; 0 after its end."""
        columns = [
            torch.log_softmax(step, dim=-1)[:, self._prefix[:, depth], self._token[:, depth]]
            for depth, step in enumerate(self.logits)
        ]
        return torch.stack(columns, dim=-1) * self.mask

    def table(self) -> Array:
        """[X, N] log-probability of each completion, nats."""
        with torch.no_grad():
            return np.asarray(self.token_logps().sum(dim=-1).numpy())

    def minimise(self, loss: Callable[[PairLogps], torch.Tensor], weights: Array, *, steps: int) -> tuple[float, int]:
        """Minimise the mean loss of weighted pairs by L-BFGS. Returns (largest gradient at the end, iterations).

        loss:    [B] losses of pairs.
        weights: [X, N, N] of prompt, preferred and dispreferred answer.
        """
        prompt, better, worse = np.nonzero(weights)
        weight = torch.as_tensor(weights[prompt, better, worse])
        places = [torch.as_tensor(place) for place in (prompt, better, worse)]
        search = torch.optim.LBFGS(
            self.logits, max_iter=steps, history_size=20, tolerance_grad=1e-8, tolerance_change=1e-14,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> torch.Tensor:
            search.zero_grad()
            tokens = self.token_logps()
            value = (weight * loss(PairLogps(*(self._side(tokens, places[0], side) for side in places[1:])))).sum()
            value.backward()
            return value

        search.step(closure)
        closure()
        largest = max(float(step.grad.abs().max()) for step in self.logits if step.grad is not None)
        return largest, int(search.state[self.logits[0]]["n_iter"])

    def _side(self, tokens: torch.Tensor, prompt: torch.Tensor, answer: torch.Tensor) -> Logps:
        return Logps(tokens[prompt, answer], self.mask[answer], self.reference[prompt, answer])


def _next_tokens(world: World, leaves: Array) -> list[Array]:
    """For each depth k < L, [X, V^k, V + 1] log-probabilities of the next token (letters, then the end)."""
    v, depths = world.symbols, world.length
    offset = [sum(v**j for j in range(k)) for k in range(depths + 1)]
    below = np.exp(leaves[:, offset[depths] :])  # [X, V^L]: mass of each prefix of length L
    steps: list[Array] = []
    for depth in reversed(range(depths)):
        ended = np.exp(leaves[:, offset[depth] : offset[depth] + v**depth])
        parts = np.concatenate([below.reshape(len(leaves), -1, v), ended[:, :, None]], axis=2)
        below = parts.sum(axis=2)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(parts) - np.log(below)[:, :, None]
        steps.append(np.maximum(np.nan_to_num(logs, nan=0.0, neginf=_LOWEST), _LOWEST))
    return steps[::-1]
