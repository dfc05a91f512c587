"""DPO: Rafailov et al. 2023."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from alignlab.lab.frontier import Frontier, expected, kl, log_normalise, tilt
from alignlab.objectives.dpo import DPO
from alignlab.papers.candidates import CLAIMS as WITH_CANDIDATES
from alignlab.papers.claim import Claim, Exact, Paper, Trained, above, below, near
from alignlab.papers.finished import Finished, by_setting, over_seeds
from alignlab.papers.imdb import CLAIMS as WITH_SMOLLM2
from alignlab.papers.tabular import Array, Preferences, random_answers, total_variation

_BETAS = (0.1, 0.5, 1.0, 5.0)


def theorem_1() -> dict[str, float]:
    """The minimum of DPO's expected loss on Bradley-Terry labels, against pi_ref exp(r / beta)."""
    answers = random_answers(12)
    found = {}
    for beta in _BETAS:
        landed = answers.minimum(answers.expected_loss(DPO(beta), answers.sampled))
        best = tilt(answers.reference[None], answers.reward[None], beta)[0]
        found[f"distance at beta {beta:g}"] = total_variation(landed, best)
    return found


def frontier() -> dict[str, float]:
    """J* - J(pi) against beta KL(pi || pi*), for random policies; the frontier's slope; one optimum in numbers."""
    answers = random_answers(12)
    reference, reward = answers.reference[None], answers.reward[None]
    policies = log_normalise(np.random.default_rng(1).normal(size=(20, 12)))
    wrong, slopes = 0.0, 0.0
    for beta in _BETAS:
        best = tilt(reference, reward, beta)
        optimum = beta * float(np.log(np.exp(reference + reward / beta).sum()))  # beta log Z
        for policy in policies[:, None]:
            objective = expected(policy, reward) - beta * kl(policy, reference)
            wrong = max(wrong, abs(optimum - objective - beta * kl(policy, best)))
        points = [Frontier(reference, reward).point(beta * factor) for factor in (1.001, 0.999)]
        slope = (points[1][1] - points[0][1]) / (points[1][0] - points[0][0])
        slopes = max(slopes, abs(slope / beta - 1))
    distance, value = Frontier(np.log([[0.5, 0.3, 0.2]]), np.array([[1.0, 0.0, -1.0]])).point(0.5)
    return {"largest error of the identity": wrong, "largest relative error of the slope": slopes,
            "KL at beta 0.5": distance, "reward at beta 0.5": value}  # fmt: skip


def certain_labels(answers: Preferences) -> Array:
    """[N, N] probability of the ordered pair if the better of two sampled answers is always preferred."""
    prior, reward = np.exp(answers.reference), answers.reward
    return np.asarray(2 * prior[:, None] * prior * (reward[:, None] > reward))


def descent(answers: Preferences, objective: DPO, weights: Array, updates: int = 100) -> list[Array]:
    """Ten policies [N] along as many updates (Adam, 0.1) on the expected loss of weighted pairs [N, N]."""
    loss = answers.expected_loss(objective, weights)
    scores = torch.zeros(len(answers.reference), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=0.1)
    path = []
    for step in range(1, updates + 1):
        optimizer.zero_grad()
        loss(answers.policy(scores)).backward()
        optimizer.step()
        if step % (updates // 10) == 0:
            path.append(np.asarray(answers.policy(scores.detach()).numpy()))
    return path


def lead_over_ideal_rl() -> dict[str, float]:
    """The largest lead of DPO over the frontier at the same KL, along its descent on labels without noise.

    The better of two answers is always preferred, as with the paper's classifier. Policies are taken every 10 of 100
    updates (Adam, 0.1), for the betas of the figure.
    """
    answers = random_answers(12)
    reward = answers.reward
    exact = Frontier(answers.reference[None], reward[None])
    leads = []
    for beta in (0.05, 0.1, 1.0, 5.0):
        for policy in descent(answers, DPO(beta), certain_labels(answers)):
            at = exact.strength_at(kl(policy[None], answers.reference[None]))
            leads.append(expected(policy[None], reward[None]) - exact.point(at)[1])
    return {"largest lead of DPO": max(leads)}


def implicit_reward() -> dict[str, float]:
    """beta log pi/pi_ref of the optimum minus the reward: the same constant for all answers (equation 5)."""
    answers: Preferences = random_answers(12)
    landed = answers.minimum(answers.expected_loss(DPO(0.5), answers.sampled))
    shift: Array = 0.5 * (landed - answers.reference) - answers.reward
    likely = np.exp(answers.reference) > 1e-4
    return {"spread of reward minus implicit reward": float(np.ptp(shift[likely]))}


# beta of trained runs.
_TRAINED_BETAS = (0.5, 1.0, 2.0)


def distance_to_the_optimum(runs: Sequence[Finished]) -> dict[str, list[float]]:
    """KL(pi || pi*) of trained policies from pi* = pi_ref exp(r / beta), nats, for each beta.

    It is (J* - J(pi)) / beta, where J is the reward minus beta KL(pi || pi_ref), and J* = beta log Z.
    """

    def distance(run: Finished) -> float:
        beta, world = run.config["objective.beta"], run.data.world
        highest = float(np.log(np.exp(world.demonstrator_logps + world.gold_reward / beta).sum()))  # J* / beta
        return highest - run.metric("exact/reward") / beta + run.metric("exact/kl")

    found = by_setting(runs, distance)
    return {f"KL at beta {beta:g}": over_seeds(found, f"objective.beta={beta:g}") for beta in _TRAINED_BETAS}


PAPER = Paper(
    name="dpo_2023",
    title="Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
    authors="Rafailov et al. 2023",
    url="https://arxiv.org/abs/2305.18290",
    remarks=(
        "Appendix A.4 has a swapped sign; section 4 is right.",
        "Figure 2 (right): 61.7 % against 57.0 % of 256 answers at temperature 0 is a difference of 4.7 ± 4.3 points "
        "(standard error), z = 1.1.",
    ),
    claims=(
        Claim(
            name="frontier",
            words="The optimum of reward minus beta KL is pi_ref exp(r / beta), and every other policy falls short of "
            "its value by beta times its KL to the optimum.",
            source="section 4, equation 4",
            expected=(
                below("largest error of the identity", 1e-9, "derived"),
                below("largest relative error of the slope", 1e-4, "derived"),
                near("reward at beta 0.5", 0.91194188, 1e-8, "derived"),
                near("KL at beta 0.5", 0.43220514, 1e-8, "derived"),
            ),
            measured_by=Exact(frontier),
            deviations=("Paper: language models. Here: 12 answers to one prompt, and 3 for the numbers at beta 0.5.",),
        ),
        Claim(
            name="theorem-1",
            words="Minimising DPO's loss on Bradley-Terry preferences gives the optimum of reward minus beta KL.",
            source="section 5.1, Theorem 1",
            expected=tuple(below(f"distance at beta {beta:g}", 1e-3, "derived") for beta in _BETAS),
            measured_by=Exact(theorem_1),
            deviations=("Paper: language models. Here: 12 answers, the exact expectation of the loss, L-BFGS.",),
            note="Distances are total variations.",
        ),
        Claim(
            name="theorem-1-trained",
            words="A policy that is trained by DPO on Bradley-Terry preferences comes close to the optimum of reward "
            "minus beta KL.",
            source="section 5.1, Theorem 1",
            expected=tuple(
                near(f"KL at beta {beta:g}", 0.0, 2 * distance**2, "derived")
                for beta, distance in ((0.5, 0.15), (1.0, 0.1), (2.0, 0.05))
            ),
            measured_by=Trained(
                (
                    "experiment=paper/world_3",
                    "data.pair_count=20000",
                    "optim.schedule=linear",
                    "trainer.max_steps=3000",
                    f"objective.beta={','.join(f'{beta:g}' for beta in _TRAINED_BETAS)}",
                    "seed=0,1,2,3,4",
                ),
                distance_to_the_optimum,
            ),
            deviations=("Paper: an expectation over all pairs. Here: 40 answers and 20,000 pairs.",),
            version=2,
            note="The KL is that from the optimum. What is left comes from the finite number of pairs. Version 1 "
            "expected total variations of at most 0.15, 0.1 and 0.05. If the KL is at most 2 d^2, then the total "
            "variation is at most d (Pinsker), so version 2 is not weaker.",
        ),
        Claim(
            name="implicit-reward",
            words="beta log pi/pi_ref of the trained policy is the reward up to a constant that depends on the prompt.",
            source="section 4, equation 5",
            expected=(below("spread of reward minus implicit reward", 1e-3, "derived"),),
            measured_by=Exact(implicit_reward),
            deviations=("Paper: language models. Here: 12 answers; those less probable than 1e-4 are left out.",),
        ),
        Claim(
            name="dominates-ideal-rl",
            words="At equal KL, DPO has a higher reward than RL on the true reward (PPO-GT), even if that RL "
            "reaches its optimum.",
            source="figure 2 (left) and section 6.1: the frontier strictly dominates PPO's, even with PPO-GT",
            expected=(above("largest lead of DPO", 0.0, "derived"),),
            measured_by=Exact(lead_over_ideal_rl),
            version=2,
            deviations=(
                "Paper: GPT-2-large on IMDb. Here: 12 answers to one prompt.",
                "Paper: PPO-GT as it was trained. Here: the exact optimum of reward minus beta KL.",
            ),
            note="The paper compares with PPO-GT as it was trained; that it reaches its optimum is our reading. No "
            "policy can lie above the exact optimum at the same KL, so strict dominance can only be a statement about "
            "PPO as it was trained. Whether a trained PPO-GT falls short of DPO is the claim figure-2-left.",
        ),
        Claim(
            name="figure-2-left",
            words="On IMDb, DPO has a higher reward than PPO and PPO-GT at every KL.",
            source="figure 2 (left)",
            expected=(
                near("DPO's reward at KL 3", 0.95, 0.03, "eye-read-third-party"),
                near("PPO-GT's reward at KL 3", 0.68, 0.03, "eye-read-third-party"),
            ),
            measured_by=None,
            scale="full",
        ),
        Claim(
            name="figure-2-right",
            words="On TL;DR, DPO's win-rate is robust to the sampling temperature and PPO's is not.",
            source="figure 2 (right)",
            expected=(
                near("DPO's win-rate at temperature 0.75", 0.52, 0.03, "eye-read-third-party"),
                near("PPO's win-rate at temperature 0.75", 0.2, 0.03, "eye-read-third-party"),
            ),
            measured_by=None,
            scale="full",
        ),
        *WITH_SMOLLM2,
        *WITH_CANDIDATES,
    ),
)
