"""Over-optimisation of direct alignment: Rafailov et al. 2024."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch

from alignlab.lab.frontier import expected, kl, log_normalise
from alignlab.objectives.base import Objective
from alignlab.objectives.dpo import DPO
from alignlab.objectives.hinge import Hinge
from alignlab.objectives.ipo import IPO
from alignlab.papers.claim import Batched, Claim, Exact, Paper, above, below, near
from alignlab.papers.gao_2022 import world
from alignlab.papers.tabular import Answers, Array, sigmoid, tensor
from alignlab.types import Logps, PairLogps


def third_action() -> dict[str, float]:
    """The loss of a pair and its opposite with all probability on the two actions, and with all of it on a third."""
    answers = Answers(np.log(np.full(3, 1 / 3)))
    table = np.zeros((3, 3))
    table[0, 1] = table[1, 0] = 0.5
    eps = 1e-300
    policies = [torch.log(tensor(*p)) for p in ((0.5, 0.5, eps), (eps, eps, 1.0))]
    found = {}
    for name, objective in (("DPO", DPO(0.1)), ("IPO", IPO(0.1)), ("hinge", Hinge(0.1))):
        inside, outside = (float(answers.expected_loss(objective, table)(policy)) for policy in policies)
        found[f"{name}: loss outside minus loss inside"] = abs(outside - inside)
        found |= {"DPO's loss inside": inside} if "DPO's loss inside" not in found else {}
    return found


# Losses and their strengths (beta, tau), from strong to weak regularisation.
_LOSSES: dict[str, Callable[[float], Objective]] = {"DPO": DPO, "IPO": IPO, "hinge": Hinge}
_STRENGTHS = tuple(float(strength) for strength in np.geomspace(2.0, 0.01, 10))
_PAIRS, _UPDATES, _BATCH = 1000, 400, 50
# KL (nats) up to which the gold reward rises.
_PEAK = 4.0


@lru_cache(maxsize=32)
def _differences(seed: int) -> torch.Tensor:
    """[1000, V] counts of the preferred answer minus those of the other one, of pairs with Bradley-Terry labels."""
    reference, gold, counts = world(seed)
    rng = np.random.default_rng([seed, 9])
    first, second = rng.choice(len(reference), size=(2, _PAIRS), p=np.exp(reference))
    wins = rng.random(_PAIRS) < sigmoid(gold[first] - gold[second])
    return torch.as_tensor(np.where(wins, 1, -1)[:, None] * (counts[first] - counts[second]))


def trained(name: str, seeds: int, first: int = 0) -> torch.Tensor:
    """[4, S, B, V] theta of the policies pi_ref exp(theta . counts), at four checkpoints of the training by a loss.

    S seeds and B strengths are trained at once (Adam, 0.1, 400 updates of 50 pairs). The log-ratio margin of a pair is
    theta . (difference of the counts), because the normaliser of the policy cancels.
    """
    data = torch.stack([_differences(seed) for seed in range(first, first + seeds)])
    theta = torch.zeros(seeds, len(_STRENGTHS), data.shape[-1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.1)
    order = torch.Generator().manual_seed(first)
    nothing, mask = torch.zeros(seeds * _BATCH, dtype=torch.float64), torch.ones(seeds * _BATCH, 1, dtype=torch.bool)
    rejected = Logps(nothing[:, None], mask, nothing)
    found = []
    for step in range(1, _UPDATES + 1):
        rows = data[:, torch.randint(_PAIRS, (_BATCH,), generator=order)]
        margins = torch.einsum("sbv,snv->bsn", theta, rows).flatten(1)  # [B, S * batch]
        losses = [
            _LOSSES[name](strength)(PairLogps(Logps(margin[:, None], mask, nothing), rejected)).sum() / _BATCH
            for strength, margin in zip(_STRENGTHS, margins, strict=True)
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        if step % (_UPDATES // 4) == 0:
            found.append(theta.detach().clone())
    return torch.stack(found)


def landed(theta: Array, seed: int) -> tuple[Array, Array]:
    """(KL, gold reward) of policies pi_ref exp(theta . counts); theta [..., V]."""
    reference, gold, counts = world(seed)
    points = []
    for row in theta.reshape(-1, theta.shape[-1]):
        policy = log_normalise((reference + counts @ row)[None])
        points.append((kl(policy, reference[None]), expected(policy, gold[None])))
    kls, golds = np.array(points).T
    return kls.reshape(theta.shape[:-1]), golds.reshape(theta.shape[:-1])


def hump(seeds: int, first: int = 0) -> dict[str, list[float]]:
    """How the gold reward rises and falls with the KL, for each loss; and when the policy that goes farthest peaks.

    Rewards at a KL are interpolated between strengths. The farthest KL is the largest that all losses reached.
    """
    thetas = {name: trained(name, seeds, first).numpy() for name in _LOSSES}
    found: dict[str, list[float]] = {}
    for s in range(seeds):
        paths = {name: landed(theta[:, s], first + s) for name, theta in thetas.items()}
        far = min(float(kls[-1].max()) for kls, _ in paths.values())
        falls = {}
        for name, (kls, golds) in paths.items():
            order = np.argsort(kls[-1])
            peak, end = np.interp([_PEAK, far], kls[-1][order], golds[-1][order])
            falls[name] = peak - end
            values = {"rise to KL 4": peak, "fall from KL 4 to the farthest": falls[name],
                      "fall after a quarter of the updates": golds[0, -1] - golds[-1, -1]}  # fmt: skip
            for what, value in values.items():
                found.setdefault(f"{name}: {what}", []).append(float(value))
        found.setdefault("DPO's fall minus IPO's", []).append(float(falls["DPO"] - falls["IPO"]))
        found.setdefault("farthest KL", []).append(far)
    return found


_HERE = (
    "Paper: Pythia of 1B to 7B on TL;DR, win-rates by GPT-4. Here: all 32,768 sequences of 5 words, 1,000 pairs with "
    "Bradley-Terry labels, and the exact gold reward.",
    "Paper: one epoch of transformers. Here: 20 epochs of a log-linear policy, pi_ref exp(theta . counts of words), "
    "which can't express the whole gold reward.",
    "Paper: seven betas. Here: ten strengths from 2 to 0.01; rewards are interpolated.",
)

PAPER = Paper(
    name="rafailov_2024",
    title="Scaling Laws for Reward Model Overoptimization in Direct Alignment Algorithms",
    authors="Rafailov et al. 2024",
    url="https://arxiv.org/abs/2406.02900",
    claims=(
        Claim(
            name="third-action",
            words="If two actions have beaten each other, moving all probability to a third, unseen action costs "
            "nothing: the losses can't tell the two policies apart.",
            source="the three-action example",
            expected=(
                *(
                    below(f"{name}: loss outside minus loss inside", 1e-12, "derived")
                    for name in ("DPO", "IPO", "hinge")
                ),
                near("DPO's loss inside", math.log(2), 1e-12, "derived"),
            ),
            measured_by=Exact(third_action),
            deviations=("Probabilities of 0 are 1e-300 here.",),
        ),
        Claim(
            name="direct-hump",
            words="As beta falls, the quality of policies trained by DPO, IPO and the hinge loss rises with the KL and "
            "then falls. Policies that go far are best early in their training.",
            source="figures 1 and 2, and section 4",
            expected=(
                *(above(f"{name}: rise to KL 4", 0.0, "printed-via-notes") for name in _LOSSES),
                *(above(f"{name}: fall from KL 4 to the farthest", 0.0, "printed-via-notes") for name in _LOSSES),
                *(above(f"{name}: fall after a quarter of the updates", 0.0, "printed-via-notes") for name in _LOSSES),
            ),
            measured_by=Batched(hump, seeds=20),
            version=2,
            deviations=_HERE,
            note="The loss, not a learnt reward model, is what is over-optimised: no reward model is fitted. gao_2022 "
            "hump has the same world with one.",
        ),
        Claim(
            name="ipo-least",
            words="IPO over-optimises less than DPO: between the same two KLs it loses less.",
            source="figure 1 and section 4",
            expected=(above("DPO's fall minus IPO's", 0.0, "printed-via-notes"),),
            measured_by=Batched(hump, seeds=20),
            deviations=(*_HERE, "Paper: at the same betas. Here: at equal KL."),
            note="In a log-linear policy all three losses move the same few weights, so policies with equal KL are "
            "nearly alike, whichever loss trained them. Version 1 of the claim on the hump had this as one of its "
            "expectations.",
        ),
        Claim(
            name="figure-1",
            words="Win-rates of DPO, IPO and SLiC rise and then fall with the square root of the KL.",
            source="figure 1; d (alpha - beta log d) has half the error of a quadratic",
            expected=(below("error of the law over that of a quadratic", 0.75, "printed-via-notes"),),
            measured_by=None,
            scale="full",
        ),
    ),
)
