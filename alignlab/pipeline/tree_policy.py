"""Policies over an enumerable world whose losses are minimised exactly, over all pairs at once.

A policy is the probabilities of the next token after every prefix. In a table each of them is free, so that it has no
restriction by a model. In a model they are its outputs. A table has one number for each token after each prefix, or one
for each answer: the same policies, but another way for a search through them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from alignlab.data.template import Template
from alignlab.lab.weighted_pairs import WeightedPairs
from alignlab.lab.world import World
from alignlab.types import Logps, PairLogps

Array = NDArray[np.float64]

# Log-probabilities of the start below this are raised to it, so that logits stay finite.
_LOWEST = -60.0


@dataclass(frozen=True)
class Minimised:
    """Where a search stopped: its largest gradient, and the loss there."""

    gradient: float
    loss: float


class ExactPolicy(ABC):
    """Base of policies whose next-token probabilities are all computed at once.

    world:     its completions are the leaves of the tree.
    reference: [X, N] log-probabilities of all completions, nats.
    """

    def __init__(self, world: World, reference: Array) -> None:
        self.reference = torch.as_tensor(reference)
        tokens, v = torch.as_tensor(world.tokens), world.symbols
        before = torch.cat([torch.zeros(len(tokens), 1, dtype=torch.bool), (tokens == v).cumsum(1)[:, :-1] > 0], dim=1)
        self.mask = ~before  # [N, L]
        self._token = tokens
        self._prefix = torch.zeros_like(tokens)
        for depth in range(1, world.length):
            letter = tokens[:, depth - 1].clamp(max=v - 1)
            self._prefix[:, depth] = torch.where(self.mask[:, depth], self._prefix[:, depth - 1] * v + letter, 0)

    @property
    @abstractmethod
    def weights(self) -> Sequence[torch.Tensor]:
        """What is trained."""

    @abstractmethod
    def next_tokens(self) -> Sequence[torch.Tensor]:
        """For each depth k < L, [X, V^k, V + 1] log-probabilities of the next token (letters, then the end), nats."""

    def token_logps(self) -> torch.Tensor:
        """[X, N, L] log-probability of each token of each completion, nats; 0 after its end."""
        columns = [
            step[:, self._prefix[:, depth], self._token[:, depth]] for depth, step in enumerate(self.next_tokens())
        ]
        return torch.stack(columns, dim=-1) * self.mask

    def table(self) -> Array:
        """[X, N] log-probability of each completion, nats."""
        with torch.no_grad():
            return np.asarray(self.token_logps().sum(dim=-1).numpy())

    def minimise(self, loss: Callable[[PairLogps], torch.Tensor], pairs: WeightedPairs, *, steps: int) -> Minimised:
        """Minimise the mean loss of weighted pairs by L-BFGS with at most `steps` iterations. loss: [B] of pairs."""
        weight = torch.as_tensor(pairs.weight)
        prompt, better, worse = (torch.as_tensor(place) for place in (pairs.prompt, pairs.better, pairs.worse))
        search = torch.optim.LBFGS(
            self.weights, max_iter=steps, history_size=20, tolerance_grad=1e-8, tolerance_change=1e-14,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> torch.Tensor:
            search.zero_grad()
            tokens = self.token_logps()
            value = (weight * loss(PairLogps(*(self._side(tokens, prompt, side) for side in (better, worse))))).sum()
            value.backward()
            return value

        search.step(closure)
        value = float(closure().detach())
        largest = max(float(one.grad.abs().max()) for one in self.weights if one.grad is not None)
        return Minimised(largest, value)

    def _side(self, tokens: torch.Tensor, prompt: torch.Tensor, answer: torch.Tensor) -> Logps:
        return Logps(tokens[prompt, answer], self.mask[answer], self.reference[prompt, answer])


class TreePolicy(ExactPolicy):
    """A table of next-token logits after every prefix, which start at those of the reference."""

    def __init__(self, world: World, reference: Array) -> None:
        super().__init__(world, reference)
        self.logits = [torch.as_tensor(step).requires_grad_() for step in _next_tokens(world, reference)]

    @property
    def weights(self) -> Sequence[torch.Tensor]:
        return self.logits

    def next_tokens(self) -> Sequence[torch.Tensor]:
        return [torch.log_softmax(step, dim=-1) for step in self.logits]


class AnswerPolicy(ExactPolicy):
    """A table of one logit for each answer, which start at the reference's log-probabilities.

    pairs: the pairs that it will be minimised over. An answer's share of them is about the curvature of the loss along
           its logit. The search moves each logit in units of one over the square root of its answer's share, so that
           rare answers are found as soon as frequent ones. Answers that are in no pair keep the start's logit.
    """

    def __init__(self, world: World, reference: Array, pairs: WeightedPairs) -> None:
        super().__init__(world, reference)
        share = np.zeros_like(reference)
        for answer in (pairs.better, pairs.worse):
            np.add.at(share, (pairs.prompt, answer), pairs.weight)
        self._unit = torch.as_tensor(1 / np.sqrt(np.where(share > 0, share, 1.0)))
        self._start = self.reference.clamp(min=_LOWEST)
        self.change = torch.zeros_like(self._start).requires_grad_()
        self._symbols, self._length = world.symbols, world.length

    @property
    def weights(self) -> Sequence[torch.Tensor]:
        return [self.change]

    def next_tokens(self) -> Sequence[torch.Tensor]:
        leaves, steps = self._start + self.change * self._unit, []
        by_length = leaves.split([self._symbols**k for k in range(self._length + 1)], dim=1)
        below = by_length[-1]  # [X, V^L]: log of the mass of each prefix of length L
        for ended in reversed(by_length[:-1]):
            parts = torch.cat([below.unflatten(1, (-1, self._symbols)), ended[:, :, None]], dim=2)
            below = parts.logsumexp(dim=2)
            steps.append(parts - below[:, :, None])
        return steps[::-1]


class ModelPolicy(ExactPolicy):
    """A model of the lab, in float64, with dropout off. All prefixes of V^(L - 1) letters go through it at once."""

    def __init__(self, world: World, reference: Array, model: nn.Module, tokenizer: Any) -> None:
        super().__init__(world, reference)
        self.model = model.double().eval()
        template = Template(tokenizer)
        letters = torch.tensor([tokenizer.convert_tokens_to_ids(letter) for letter in world.alphabet])
        self._order = torch.tensor([*letters, template.end_id])
        prompts = torch.tensor([template.prompt_ids(text) for text in world.prompt_texts])
        depth = world.length - 1
        prefixes = torch.cartesian_prod(*[letters] * depth).view(-1, depth) if depth else letters.new_zeros(1, 0)
        self._rows = torch.cat(
            [prompts.repeat_interleave(len(prefixes), 0), prefixes.repeat(len(prompts), 1)], dim=1
        )  # [X V^(L - 1), P + L - 1]
        self._shape = (len(prompts), len(prefixes), world.length)
        self._symbols = world.symbols

    @property
    def weights(self) -> Sequence[torch.Tensor]:
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    def next_tokens(self) -> Sequence[torch.Tensor]:
        count, leaves, length = self._shape
        logits = self.model(input_ids=self._rows, use_cache=False).logits[:, -length:]
        logps = torch.log_softmax(logits.double(), dim=-1)[..., self._order].view(count, leaves, length, -1)
        # the rows that begin with the same k letters are neighbours
        return [logps[:, :: self._symbols ** (length - 1 - k), k] for k in range(length)]


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
