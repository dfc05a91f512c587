"""Is DPO superior to PPO? Xu et al. 2024."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from alignlab.lab.frontier import tilt
from alignlab.lab.tables import diagonal
from alignlab.objectives.dpo import DPO
from alignlab.objectives.reward_model import RewardModel
from alignlab.papers.claim import Batched, Claim, Exact, Paper, Trained, above, below
from alignlab.papers.finished import Finished, by_setting, over_seeds
from alignlab.papers.tabular import Answers, tensor
from alignlab.types import RankedRewards

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


# Prompts and answers to each, and answers to each in pairs, of the synthetic experiment.
_PROMPTS, _COVERED = 8, 3
_BETA = 0.1
# Weight of the squared (implicit) rewards of all answers, for the methods that are regularised.
_PENALTY = 1e-3


@dataclass(frozen=True)
class Worlds:
    """The worlds of several seeds, in which the right answer to each prompt beats two others.

    prior:   [S, X, N] log-probabilities; the reference.
    covered: bool[S, X, N] the answers in pairs.
    """

    prior: torch.Tensor
    covered: torch.Tensor

    @property
    def pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """int64[P] places of the preferred and of the dispreferred answers in a flattened table [S, X, N]."""
        right = torch.eye(_PROMPTS, dtype=torch.bool)
        seed, prompt, worse = (self.covered & ~right).nonzero().T
        row = (seed * _PROMPTS + prompt) * _PROMPTS
        return row + prompt, row + worse

    def gained(self, policy: torch.Tensor) -> list[float]:
        """The probability that a policy [S, X, N] has moved to answers that are in no pair, for each seed."""
        moved = (policy.exp() - self.prior.exp()) * ~self.covered
        return [float(mass) for mass in moved.sum(dim=2).mean(dim=1)]

    def fitted(self, loss: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """[S, X, N] scores theta_x + 2 theta_0 for prompt x, after 500 updates (Adam, 0.02) on a loss of them, from 0.

        That is the log-linear model of paper/xu_8x8, which generalises between prompts.
        """
        theta = torch.zeros(len(self.prior), _PROMPTS + 1, _PROMPTS, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([theta], lr=0.02)
        for _ in range(500):
            optimizer.zero_grad()
            loss(theta[:, :-1] + 2 * theta[:, -1:]).backward()
            optimizer.step()
        return (theta[:, :-1] + 2 * theta[:, -1:]).detach()


def worlds(seeds: int) -> Worlds:
    prior = torch.as_tensor(np.stack([diagonal(seed, _PROMPTS)[0] for seed in range(seeds)]))
    likely = prior.topk(_COVERED).indices
    return Worlds(prior, torch.zeros(prior.shape, dtype=torch.bool).scatter(2, likely, True))


def by_dpo(found: Worlds, penalty: float) -> torch.Tensor:
    """[S, X, N] log of DPO's policies. The penalty is on the implicit rewards, centred for each prompt."""
    prior, pairs = found.prior, found.pairs
    answers, objective = Answers(prior.flatten().numpy()), DPO(_BETA)

    def loss(scores: torch.Tensor) -> torch.Tensor:
        policy = torch.log_softmax(prior + scores, dim=2)
        implicit = _BETA * (policy - prior)
        implicit = implicit - implicit.mean(dim=2, keepdim=True)
        each = objective(answers.pairs(policy.flatten(), *pairs)).view(len(prior), -1)
        return each.mean(dim=1).sum() + penalty * (implicit**2).mean(dim=(1, 2)).sum()

    return torch.log_softmax(prior + found.fitted(loss), dim=2)


def by_rl(found: Worlds, penalty: float) -> torch.Tensor:
    """[S, X, N] log of the optimum of RL on a reward learnt from the same pairs. The penalty is on that reward."""
    prior, pairs = found.prior, found.pairs
    grades = torch.tensor([[1.0, 0.0]]).expand(len(pairs[0]), 2)
    compared = torch.ones_like(grades, dtype=torch.bool)

    def loss(reward: torch.Tensor) -> torch.Tensor:
        rewards = torch.stack([reward.flatten()[place] for place in pairs], dim=1)
        each = RewardModel()(RankedRewards(rewards, compared, grades)).view(len(prior), -1)
        return each.mean(dim=1).sum() + penalty * (reward**2).mean(dim=(1, 2)).sum()

    return torch.log_softmax(prior + found.fitted(loss) / _BETA, dim=2)


def learnt_reward(seeds: int) -> dict[str, list[float]]:
    """How much mass RL and DPO move to answers that are in no pair, without and with the same regulariser."""
    found = worlds(seeds)
    return {
        "mass gained by RL": found.gained(by_rl(found, 0.0)),
        "mass gained by DPO": found.gained(by_dpo(found, 0.0)),
        "mass gained by regularised RL": found.gained(by_rl(found, _PENALTY)),
        "mass gained by regularised DPO": found.gained(by_dpo(found, _PENALTY)),
    }


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
            note="The table is about minima of the loss, not about what training finds: gradients of DPO hardly move "
            "an action to which the reference gives nothing. RL is protected by that zero of the reference. Where the "
            "reference gives an unseen answer some probability, RL on a learnt reward can move there too: see "
            "learnt-reward.",
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
            "best answers. RL on a reward that was learnt from the same pairs, without a regulariser, gains mass too: "
            "see learnt-reward.",
        ),
        Claim(
            name="learnt-reward",
            words="RL on a reward model that was learnt from the same pairs does not move probability to answers that "
            "are in no pair.",
            source="section 4: out-of-distribution answers are a weakness of DPO, and PPO's KL penalty prevents them",
            expected=(below("mass gained by RL", 0.02, "derived"),),
            measured_by=Batched(learnt_reward, seeds=30),
            deviations=(
                "Paper: PPO. Here: the exact optimum of learnt reward minus 0.1 KL, 8 prompts with 8 answers, of "
                "which 3 are in pairs; reward and DPO's policy have the same log-linear form and the same updates.",
            ),
            note="A learnt reward generalises as DPO's implicit reward does. The record has four methods: RL and DPO, "
            "each without and with the same small penalty on squared (implicit) rewards. The penalty keeps both from "
            "unseen answers, so in this world the regulariser decides, and not the choice between DPO and RL.",
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
