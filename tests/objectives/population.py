"""Exact expectations of the real objectives over an enumerable space, their minimiser, and independent solvers.

A tabular policy is log pi = log_softmax(log pi_ref + s), s free and 0 at the start; lp stands for log pi, [N].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignlab.lab.world import World
from alignlab.objectives.base import Objective
from alignlab.types import LabelledLogps, Logps, PairLogps

Array = NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -x))


def logit(p: Array | float) -> Array:
    return np.log(p) - np.log1p(-np.asarray(p))


def tv(p: Array, q: Array) -> float:
    """Total variation distance."""
    return 0.5 * float(np.abs(p - q).sum())


@dataclass(frozen=True)
class Space:
    """Answers, with their log-probability under the reference and their number of tokens."""

    reference: Array
    reward: Array
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.ones(1, dtype=np.int64))

    @cached_property
    def ref(self) -> Array:
        return np.exp(self.reference)

    @cached_property
    def beats(self) -> Array:
        """[N, N] P(i beats j) by Bradley-Terry."""
        return sigmoid(self.reward[:, None] - self.reward)

    @cached_property
    def sampled(self) -> Array:
        """[N, N] probability of the ordered pair (preferred i, dispreferred j), both sampled from the reference."""
        return 2 * self.ref[:, None] * self.ref * self.beats

    @cached_property
    def wins(self) -> Array:
        """[N] p*(y beats mu), where mu is the reference. Ties count ½."""
        return self.beats @ self.ref

    @cached_property
    def _reference(self) -> Tensor:
        return torch.as_tensor(self.reference)

    @cached_property
    def _counts(self) -> Tensor:
        return torch.as_tensor(self.lengths).expand(len(self.reference))

    @cached_property
    def _rows(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Indices of the answers in the two halves of a batch: chosen and rejected, or good and bad ones."""
        every = torch.arange(len(self.reference))
        return {"pairs": tuple(torch.cartesian_prod(every, every).T), "labelled": (every, every)}

    def policy(self, s: Tensor) -> Tensor:
        return torch.log_softmax(self._reference + s, dim=0)

    def logps(self, lp: Tensor, rows: Tensor) -> Logps:
        """The answers `rows`, with log-probabilities split equally over tokens; KL and collision are for one token."""
        mask = torch.arange(int(self._counts.max())) < self._counts[rows, None]
        policy, reference = ((table / self._counts)[rows, None] * mask for table in (lp, self._reference))
        more: dict[str, Any] = {}
        if mask.shape[1] == 1:
            kl = (self._reference.exp() * (self._reference - lp)).sum().expand(len(rows))
            more = {"reference_kl": kl, "collision": torch.logsumexp(2 * lp.detach(), dim=0).expand(len(rows), 1)}
        return Logps(policy, mask, self._reference[rows], reference_tokens=reference, **more)

    def losses(self, objective: Objective, lp: Tensor, state: Tensor | None = None) -> Tensor:
        """Losses: [N²] of all ordered pairs (preferred, dispreferred), row by row; or [2N] of all answers as good ones,
        then of all answers as bad ones.

        The mismatched answers' mean log-ratio is the one that y' ~ pi_ref has in expectation.
        """
        first, second = self._rows[objective.requires.data]
        if objective.requires.data == "pairs":
            return objective(PairLogps(self.logps(lp, first), self.logps(lp, second)))
        drift = (self._reference.exp() * (lp - self._reference)).sum()
        mismatched = Logps(drift.reshape(1, 1), torch.ones(1, 1, dtype=torch.bool), torch.zeros_like(drift)[None])
        good = torch.arange(2 * len(first)) < len(first)
        return objective(LabelledLogps(self.logps(lp, torch.cat([first, second])), good, mismatched, state))

    def slope(self, objective: Objective, weights: Array, lp: Tensor) -> Array:
        """[N] derivative of the weighted mean loss by each log-probability, as if these were independent."""
        free = lp.detach().clone().requires_grad_()
        (torch.as_tensor(weights).flatten() * self.losses(objective, free)).sum().backward()
        assert free.grad is not None
        return free.grad.numpy()

    def landing(
        self,
        objective: Objective,
        weights: Array,
        state: Tensor | None = None,
        *,
        small_steps: int = 0,
        line_search: bool = True,
    ) -> Array:
        """[N] policy at which L-BFGS ends when it minimises the mean loss under weights [N, N] or [2N].

        small_steps: of Adam, taken first: where losses saturate, a long step may end where no slope leads back.
        line_search: False for losses with a part that is held fixed: of those only the gradient is to be trusted.
        """
        weight = torch.as_tensor(weights / weights.sum()).flatten()
        s = torch.zeros(len(self.reference), dtype=torch.float64, requires_grad=True)
        lbfgs = torch.optim.LBFGS(
            [s],
            max_iter=400,
            history_size=15,
            tolerance_grad=1e-11,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe" if line_search else None,
        )

        def mean() -> Tensor:
            lbfgs.zero_grad()
            value = (weight * self.losses(objective, self.policy(s), state)).sum()
            value.backward()
            return value

        adam = torch.optim.Adam([s], lr=0.02)
        for _ in range(small_steps):
            mean()
            adam.step()
        lbfgs.step(mean)
        return self.policy(s.detach()).exp().numpy()

    def normalised(self, target: Array, inverse: Callable[[Array], Array] = lambda v: v) -> Array:
        """[N] pi_ref exp(inverse(n (target + c))), c by bisection so that the sum is 1."""

        def excess(c: float) -> float:
            return float(np.sum(np.exp(np.minimum(self.reference + inverse(self.lengths * (target + c)), 600.0)))) - 1

        c = bisect(excess, -1e3, 1e3)
        return np.exp(self.reference + inverse(self.lengths * (target + c)))

    def constrained(self, slope: Callable[[Array], Array]) -> Array:
        """[N] minimum of sum_y f_y(rho_y) under sum pi_ref exp(rho) = 1, from slope = f', where the multiplier is <= 0.

        f_y'(rho) = G pi_y, each rho_y by bisection for one G < 0 (rho = -300 where f_y' > 0 throughout), G by another.
        """

        def ratios(log_minus_g: float) -> Array:
            low, high = np.full(len(self.ref), -300.0), np.full(len(self.ref), 60.0)
            for _ in range(64):
                middle = (low + high) / 2
                above = slope(middle) + np.exp(log_minus_g + self.reference + middle) > 0
                low, high = np.where(above, low, middle), np.where(above, middle, high)
            return (low + high) / 2

        log_minus_g = bisect(lambda t: 1 - float(np.sum(self.ref * np.exp(ratios(t)))), -60.0, 60.0)
        return self.ref * np.exp(ratios(log_minus_g))


def bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """The point at which an increasing function changes sign."""
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (low, middle) if function(middle) > 0 else (middle, high)
    return (low + high) / 2


def _enumerated() -> Space:
    """A small World with 13 completions of 1 or 2 tokens, and its demonstrator as the reference."""
    world = World(alphabet="abc", length=2, prompts=1, prompt_length=1, seed=1)
    lengths = np.array([len(text) + world.ended(text) for text in world.completion_texts])
    return Space(world.demonstrator_logps[0], world.gold_reward[0], lengths)


THREE = Space(np.log(np.array([0.5, 0.3, 0.2])), np.array([1.0, 0.0, -1.0]))
LONG = Space(THREE.reference, THREE.reward, np.array([4, 1, 2]))
WORLD = _enumerated()
