"""The package's objectives on a policy that is a table: exact expectations over a few answers, and their minimum.

A policy is [N] log-probabilities of N answers to one prompt, float64, nats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alignlab.lab.tables import random
from alignlab.types import LabelledLogps, Logps, PairLogps

Array = NDArray[np.float64]
PairLoss = Callable[[PairLogps], torch.Tensor]


@dataclass(frozen=True)
class Answers:
    """Answers to one prompt.

    reference: [N] log-probability of each answer under the reference, nats.
    lengths:   [N] number of tokens of each answer. An answer's log-probability is spread evenly over its tokens.
    """

    reference: Array
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.ones(1, dtype=np.int64))

    @property
    def prior(self) -> torch.Tensor:
        return torch.as_tensor(self.reference)

    def logps(self, policy: torch.Tensor, rows: torch.Tensor) -> Logps:
        """The answers `rows` as a batch that an objective takes."""
        count = torch.as_tensor(self.lengths).expand(len(self.reference))
        mask = torch.arange(int(count.max())) < count[rows, None]
        return Logps((policy / count)[rows, None] * mask, mask, self.prior[rows])

    def pairs(self, policy: torch.Tensor, better: torch.Tensor, worse: torch.Tensor) -> PairLogps:
        """A batch of pairs, given the indices of the preferred and of the dispreferred answers."""
        return PairLogps(self.logps(policy, better), self.logps(policy, worse))

    def labelled(
        self, policy: torch.Tensor, rows: torch.Tensor, good: torch.Tensor, mismatched: torch.Tensor
    ) -> LabelledLogps:
        """A batch of answers, each good or bad, with other answers for KTO's reference point."""
        return LabelledLogps(self.logps(policy, rows), good, self.logps(policy, mismatched))

    def expected_loss(self, loss: PairLoss, weights: Array) -> Callable[[torch.Tensor], torch.Tensor]:
        """policy -> sum of the losses of all ordered pairs (preferred, dispreferred), weighted by [N, N] weights."""
        better, worse = np.nonzero(weights)
        weight = torch.as_tensor(weights[better, worse])
        rows = torch.as_tensor(better), torch.as_tensor(worse)
        return lambda policy: (weight * loss(self.pairs(policy, *rows))).sum()

    def minimum(self, loss: Callable[[torch.Tensor], torch.Tensor]) -> Array:
        """[N] the policy at which L-BFGS ends when it minimises a loss, from the reference."""
        scores = torch.zeros(len(self.reference), dtype=torch.float64, requires_grad=True)
        search = torch.optim.LBFGS(
            [scores],
            max_iter=500,
            history_size=20,
            tolerance_grad=1e-10,
            tolerance_change=1e-14,
            line_search_fn="strong_wolfe",
        )

        def closure() -> torch.Tensor:
            search.zero_grad()
            value = loss(self.policy(scores))
            value.backward()
            return value

        search.step(closure)
        return np.asarray(self.policy(scores.detach()).numpy())

    def policy(self, scores: torch.Tensor) -> torch.Tensor:
        """[N] log of pi_ref exp(scores), normalised."""
        return torch.log_softmax(self.prior + scores, dim=0)

    def gradient(self, loss: Callable[[torch.Tensor], torch.Tensor], policy: Array) -> Array:
        """[N] derivative of a loss with respect to each answer's logit, at a policy."""
        scores = torch.as_tensor(policy - self.reference).clone().requires_grad_()
        loss(self.policy(scores)).backward()
        assert scores.grad is not None
        return np.asarray(scores.grad.numpy())


@dataclass(frozen=True)
class Preferences(Answers):
    """Answers with a reward; pairs are sampled from the reference and labelled by Bradley-Terry.

    reward: [N].
    """

    reward: Array = field(default_factory=lambda: np.zeros(1))

    @property
    def beats(self) -> Array:
        """[N, N] P(i is preferred to j)."""
        return sigmoid(self.reward[:, None] - self.reward)

    @property
    def sampled(self) -> Array:
        """[N, N] probability of the ordered pair (preferred i, dispreferred j)."""
        prior = np.exp(self.reference)
        return 2 * prior[:, None] * prior * self.beats

    @property
    def wins(self) -> Array:
        """[N] probability that an answer is preferred to one sampled from the reference."""
        return self.beats @ np.exp(self.reference)


def random_answers(count: int, *, seed: int = 0, concentration: float = 1.0, scale: float = 1.5) -> Preferences:
    """`count` answers whose reference is drawn from a Dirichlet distribution, with normal rewards of this scale."""
    prior, reward = random(seed, answers=count, concentration=concentration, scale=scale)
    return Preferences(prior[0], reward=reward[0])


def sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -x))


def total_variation(p: Array, q: Array) -> float:
    """Total variation distance of two policies, given as log-probabilities."""
    return 0.5 * float(np.abs(np.exp(p) - np.exp(q)).sum())


def tensor(*values: Any) -> torch.Tensor:
    """A float64 tensor of numbers."""
    return torch.tensor(values, dtype=torch.float64)
