"""Learning to summarize from human feedback: Stiennon et al. 2020."""

from __future__ import annotations

import numpy as np

from alignlab.lab.frontier import kl
from alignlab.papers.claim import Claim, Exact, Paper, below, near
from alignlab.papers.tabular import Array
from alignlab.statistics.best_of_n import best_of_n_kl

_NUMBERS = (2, 4, 16, 64, 256, 1024)


def best_of_n_policy(reference: Array, reward: Array, n: int) -> Array:
    """[N] log-probabilities of the best of n answers, from the reference's [N], for rewards without ties."""
    order = np.argsort(reward)
    below_or_at = np.cumsum(np.exp(reference[order]))
    share = np.empty_like(reference)
    share[order] = np.diff(np.concatenate([[0.0], below_or_at**n]))
    return np.log(np.maximum(share, 1e-300))


def best_of_n_distance() -> dict[str, float]:
    """log n - (n - 1) / n against the exact KL: with 100,000 equal answers, and with 1,000 of which some are likely."""
    rng = np.random.default_rng(0)
    fine = np.full(100_000, -np.log(100_000))
    coarse = np.log(rng.dirichlet(np.full(1000, 0.3)) + 1e-300)
    coarse -= np.log(np.exp(coarse).sum())
    excess = {}
    for name, reference in (("fine", fine), ("coarse", coarse)):
        reward = rng.permutation(len(reference)).astype(np.float64)
        policies = [best_of_n_policy(reference, reward, n) for n in _NUMBERS]
        distances = [kl(policy[None], reference[None]) for policy in policies]
        excess[name] = [exact - best_of_n_kl(n) for exact, n in zip(distances, _NUMBERS, strict=True)]
    return {
        "largest error if answers are many": max(map(abs, excess["fine"])),
        "largest excess over the formula": max(excess["coarse"]),
        "largest shortfall if answers are few": -min(excess["coarse"]),
    }


PAPER = Paper(
    name="stiennon_2020",
    title="Learning to summarize from human feedback",
    authors="Stiennon et al. 2020",
    url="https://arxiv.org/abs/2009.01325",
    claims=(
        Claim(
            name="best-of-n-kl",
            words="The KL between best-of-n and the policy it samples from is log n - (n - 1) / n.",
            source="appendix G.3",
            expected=(
                below("largest error if answers are many", 0.02, "derived"),
                below("largest excess over the formula", 1e-9, "derived"),
            ),
            measured_by=Exact(best_of_n_distance),
            deviations=("Here: exact distributions over 100,000 and 1,000 answers, n up to 1,024.",),
            note="It is exact in the limit of answers of vanishing probability. With few likely answers it is an "
            "upper bound.",
        ),
        Claim(
            name="human-preference",
            words="Summaries of the 1.3B model trained with human feedback beat those of the 6.7B supervised model.",
            source="human evaluation: 61 % against 43 %, each against the reference summaries",
            expected=(near("difference in points", 18.0, 5.0, "printed"),),
            measured_by=None,
            scale="full",
        ),
    ),
)
