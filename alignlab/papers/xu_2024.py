"""Is DPO superior to PPO? Xu et al. 2024."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from alignlab.lab.frontier import tilt
from alignlab.objectives.dpo import DPO
from alignlab.papers.claim import Claim, Exact, Paper, Trained, above, below
from alignlab.papers.finished import Finished, by_setting, over_seeds
from alignlab.papers.tabular import Answers, tensor

# A probability of 0 whose logarithm is finite.
_NOTHING = 1e-300


def table_1() -> dict[str, float]:
    """pi_ref = (.5, .5, 0), one pair y1 > y2: DPO's loss at two policies, and RL's mass on y3."""
    prior = np.log([0.5, 0.5, _NOTHING])
    answers = Answers(prior)
    pair = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    loss = answers.expected_loss(DPO(0.1), pair)
    policies = {"(0.1, 0, 0.9)": (0.1, _NOTHING, 0.9), "(1, 0, 0)": (1.0, _NOTHING, _NOTHING)}
    found = {f"DPO's loss at {name}": float(loss(torch.log(tensor(*p)))) for name, p in policies.items()}
    found["DPO's loss at the reference"] = float(loss(torch.as_tensor(prior)))
    # the reward model errs in favour of y3 by as much as rewards differ at all
    best = np.exp(tilt(prior[None], np.array([[1.0, 0.0, 1.0]]), 0.1))[0]
    return found | {"RL's pi(y3)": float(best[2])}


def gained(run: Finished) -> float:
    """How much of its probability a trained policy has moved to answers that are in no pair."""
    return run.metric("exact/unseen") - run.data.unseen_mass(run.data.world.demonstrator_logps)


def mass_on_unseen(runs: Sequence[Finished]) -> dict[str, list[float]]:
    """The mass that DPO moves to answers that are in no pair, by a policy that generalises and by a table."""
    gains = by_setting(runs, gained)
    names = {"2": "a policy that generalises", "0": "a table"}
    return {f"mass gained by {name}": over_seeds(gains, f"model.shared={key}") for key, name in names.items()}


PAPER = Paper(
    name="xu_2024",
    title="Is DPO Superior to PPO for LLM Alignment? A Comprehensive Study",
    authors="Xu et al. 2024",
    url="https://arxiv.org/abs/2404.10719",
    claims=(
        Claim(
            name="table-1",
            words="A policy with most of its probability on an action outside the data can minimise DPO's loss, "
            "while RL with a KL penalty gives nothing to an action that the reference excludes.",
            source="table 1, and the theorem that RL's solutions are a part of DPO's",
            expected=(
                below("DPO's loss at (0.1, 0, 0.9)", 1e-12, "printed"),
                below("DPO's loss at (1, 0, 0)", 1e-12, "printed"),
                above("DPO's loss at the reference", 0.5, "derived"),
                below("RL's pi(y3)", 1e-12, "printed"),
            ),
            measured_by=Exact(table_1),
            deviations=("Probabilities of 0 are 1e-300 here.",),
        ),
        Claim(
            name="unseen-answers",
            words="Trained on pairs that cover a part of the answers, DPO moves probability to answers that are in no "
            "pair.",
            source="the synthetic experiment with eight prompts and eight answers: from .11 to .23",
            expected=(above("mass gained by a policy that generalises", 0.0, "printed"),),
            measured_by=Trained(
                ("experiment=paper/xu_8x8", "model.shared=2,0", f"seed={','.join(map(str, range(10)))}"),
                mass_on_unseen,
            ),
            deviations=(
                "Paper: a multilayer perceptron with two layers of 64. Here: a log-linear policy that shares as much "
                "between prompts as such a network does at its start.",
                "Here: the prior gives the five unseen answers to each prompt .11 in all, as in the paper.",
            ),
            note="The mass comes from generalisation: an answer that is preferred for one prompt becomes likelier for "
            "the others, where no pair speaks against it. A table, which does not generalise, moves all mass to the "
            "best answers.",
        ),
        Claim(
            name="safe-rlhf",
            words="On SafeRLHF, DPO is much less safe than PPO.",
            source="table of SafeRLHF: 55.4 % against 99.5 %",
            expected=(above("PPO's safety rate minus DPO's", 30.0, "printed"),),
            measured_by=None,
            scale="full",
        ),
    ),
)
