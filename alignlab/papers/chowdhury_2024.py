"""Robust DPO: Chowdhury et al. 2024."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from alignlab.lab.frontier import Frontier, expected, kl, tilt
from alignlab.objectives.dpo import DPO
from alignlab.objectives.robust_dpo import RobustDPO
from alignlab.papers.claim import Claim, Exact, Paper, Trained, above, below
from alignlab.papers.finished import Finished, by_setting, over_seeds, paired_difference
from alignlab.papers.tabular import Answers, Array, random_answers, tensor, total_variation

_FLIPS = (0.1, 0.2, 0.3, 0.4)


def unbiased() -> dict[str, float]:
    """The mean of robust DPO's loss over flipped labels minus DPO's loss on clean ones, over a grid of policies."""
    answers = Answers(torch.log(tensor(0.5, 0.5)).numpy())
    first, second = torch.tensor([0]), torch.tensor([1])
    worst = 0.0
    for share in _FLIPS:
        for p in (0.02, 0.3, 0.5, 0.8, 0.99):
            policy = torch.log(tensor(p, 1 - p))
            clean = DPO(0.1)(answers.pairs(policy, first, second))
            robust = RobustDPO(0.1, label_smoothing=share)
            kept = robust(answers.pairs(policy, first, second))
            flipped = robust(answers.pairs(policy, second, first))
            worst = max(worst, float(((1 - share) * kept + share * flipped - clean).abs()))
    return {"largest difference": worst}


def _flipped(table: Array, share: float) -> Array:
    return (1 - share) * table + share * table.T


def recovers() -> dict[str, float]:
    """Distance of each minimum on flipped labels from the optimum on clean ones; 12 answers, beta 0.5."""
    answers = random_answers(12)
    clean = tilt(answers.reference[None], answers.reward[None], 0.5)[0]
    found = {}
    for share in _FLIPS:
        table = _flipped(answers.sampled, share)
        for name, loss in (("robust DPO", RobustDPO(0.5, label_smoothing=share)), ("DPO", DPO(0.5))):
            landed = answers.minimum(answers.expected_loss(loss, table))
            found[f"{name} with {share:g} flipped"] = total_variation(landed, clean)
    return found


def cost_at_equal_kl() -> dict[str, float]:
    """The gap of DPO's minimum on flipped labels to the frontier at its own KL, and its loss of reward."""
    answers = random_answers(12)
    reference, reward = answers.reference[None], answers.reward[None]
    exact = Frontier(reference, reward)
    clean = expected(tilt(reference, reward, 0.5), reward)
    gaps, losses = [], []
    for share in _FLIPS:
        landed = answers.minimum(answers.expected_loss(DPO(0.5), _flipped(answers.sampled, share)))[None]
        value = expected(landed, reward)
        gaps.append(exact.point(exact.strength_at(kl(landed, reference)))[1] - value)
        losses.append(clean - value)
    return {"largest loss of reward": max(losses), "share of it at equal KL": max(np.divide(gaps, losses))}


# Share of flipped labels of trained runs.
_TRAINED_FLIPS = 0.3


def under_noise(runs: Sequence[Finished]) -> dict[str, list[float]]:
    """How much larger robust DPO's reward is than that of DPO and of conservative DPO, and the gap of each.

    Both get the share of flipped labels; DPO does not.
    """
    key = "objective.label_smoothing"
    settings = {
        "DPO": f"objective=dpo {key}=0",
        "conservative DPO": f"objective=dpo {key}={_TRAINED_FLIPS}",
        "robust DPO": f"objective=robust_dpo {key}={_TRAINED_FLIPS}",
    }
    reward, gap = by_setting(runs, "exact/reward"), by_setting(runs, "exact/frontier_gap")
    robust = settings["robust DPO"]
    return {
        "reward of robust DPO minus DPO": paired_difference(reward, robust, settings["DPO"]),
        "reward of robust DPO minus conservative DPO": paired_difference(reward, robust, settings["conservative DPO"]),
        **{f"gap of {name} at its own KL": over_seeds(gap, setting) for name, setting in settings.items()},
    }


PAPER = Paper(
    name="chowdhury_2024",
    title="Provably Robust DPO: Aligning Language Models with Noisy Feedback",
    authors="Chowdhury et al. 2024",
    url="https://arxiv.org/abs/2403.00409",
    claims=(
        Claim(
            name="unbiased",
            words="Robust DPO's loss on flipped labels is DPO's loss on clean labels in expectation.",
            source="the unbiased loss of robust DPO",
            expected=(below("largest difference", 1e-12, "derived"),),
            measured_by=Exact(unbiased),
        ),
        Claim(
            name="recovers",
            words="With flipped labels, robust DPO still finds the clean optimum, and DPO does not.",
            source="the consistency of robust DPO, in the limit of many pairs",
            expected=(
                *(below(f"robust DPO with {share:g} flipped", 1e-3, "derived") for share in _FLIPS),
                *(above(f"DPO with {share:g} flipped", 0.02, "derived") for share in _FLIPS),
            ),
            measured_by=Exact(recovers),
            deviations=("Paper: IMDb and HH. Here: 12 answers, the exact expectation over flipped labels.",),
            note="Distances are total variations.",
        ),
        Claim(
            name="noise-costs-reward",
            words="Flipped labels make DPO's policy worse.",
            source="experiments: robust DPO against DPO under noise",
            expected=(above("largest loss of reward", 0.1, "derived"),),
            measured_by=Exact(cost_at_equal_kl),
            deviations=("Paper: IMDb and HH. Here: 12 answers, the exact optimum, beta 0.5.",),
            note="The policies have equal beta. At equal KL they have nearly equal rewards ('share of it at equal KL' "
            "in the record): on Bradley-Terry labels with many pairs, flips act like a larger beta.",
        ),
        Claim(
            name="noise-trained",
            words="Trained on pairs of which 30 % have flipped labels, robust DPO has a higher reward than DPO and "
            "conservative DPO with the same beta.",
            source="experiments: robust DPO against DPO and cDPO under noise",
            expected=(
                above("reward of robust DPO minus DPO", 0.0, "derived"),
                above("reward of robust DPO minus conservative DPO", 0.0, "derived"),
            ),
            measured_by=Trained(
                (
                    "experiment=paper/world_3",
                    f"data.noise.flipped={_TRAINED_FLIPS}",
                    "objective=dpo,dpo,robust_dpo",
                    f"objective.label_smoothing=0,{_TRAINED_FLIPS},{_TRAINED_FLIPS}",
                    "sweep.zip=[[objective,objective.label_smoothing]]",
                    "objective.beta=0.5",
                    f"seed={','.join(map(str, range(10)))}",
                ),
                under_noise,
            ),
            deviations=("Paper: IMDb and HH. Here: 40 answers, 4,000 Bradley-Terry pairs, a table as the policy.",),
            note="The losses have equal beta, and so different KLs: flips act like a larger beta, and robust DPO "
            "undoes that. The gaps in the record compare each policy with the best one at its own KL.",
        ),
    ),
)
