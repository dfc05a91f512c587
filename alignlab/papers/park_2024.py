"""Length-regularised DPO: Park et al. 2024."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from alignlab.lab.world import World
from alignlab.objectives.dpo import DPO
from alignlab.objectives.r_dpo import RDPO
from alignlab.papers.claim import Claim, Exact, Paper, Trained, above, below
from alignlab.papers.finished import Finished, by_setting, over_seeds, paired_difference
from alignlab.papers.tabular import Preferences

_ALPHAS = (0.01, 0.03, 0.1)


def _answers() -> Preferences:
    """The 13 answers of 1 or 2 tokens of a small enumerable world."""
    world = World(alphabet="abc", length=2, prompts=1, prompt_length=1, seed=1)
    lengths = np.array([len(text) + world.ended(text) for text in world.completion_texts])
    return Preferences(world.demonstrator_logps[0], lengths, world.gold_reward[0])


def expected_length() -> dict[str, float]:
    """E[n] at the minimum of R-DPO's loss, against that of pi_ref exp((r - alpha n) / beta); beta 0.5."""
    answers = _answers()
    lengths = [float(np.exp(answers.minimum(answers.expected_loss(DPO(0.5), answers.sampled))) @ answers.lengths)]
    wrong = 0.0
    for alpha in _ALPHAS:
        landed = answers.minimum(answers.expected_loss(RDPO(0.5, alpha=alpha), answers.sampled))
        weight = np.exp(answers.reference + (answers.reward - alpha * answers.lengths) / 0.5)
        lengths.append(float(np.exp(landed) @ answers.lengths))
        wrong = max(wrong, abs(lengths[-1] - float(weight @ answers.lengths / weight.sum())))
    return {"largest error of E[n]": wrong, "smallest fall of E[n] with alpha": float(-np.diff(lengths).max())}


# alpha of trained runs, nats per token.
_TRAINED_ALPHAS = ("0", "0.03", "0.1", "0.3")


def trained_length(runs: Sequence[Finished]) -> dict[str, list[float]]:
    """By how many tokens the expected answer is shorter at each alpha than at the one before, and the gaps."""
    length, gap = by_setting(runs, "exact/length"), by_setting(runs, "exact/frontier_gap")
    names = {alpha: f"objective.alpha={alpha}" for alpha in _TRAINED_ALPHAS}
    shorter = {
        f"tokens at alpha {less} minus those at {more}": paired_difference(length, names[less], names[more])
        for less, more in itertools.pairwise(_TRAINED_ALPHAS)
    }
    return shorter | {f"gap at alpha {alpha}": over_seeds(gap, name) for alpha, name in names.items()}


PAPER = Paper(
    name="park_2024",
    title="Disentangling Length from Quality in Direct Preference Optimization",
    authors="Park et al. 2024",
    url="https://arxiv.org/abs/2403.19159",
    claims=(
        Claim(
            name="expected-length",
            words="R-DPO's optimum is that of a reward with a price alpha for each token, so answers become shorter "
            "as alpha grows.",
            source="the regularised reward and its loss",
            expected=(
                below("largest error of E[n]", 1e-6, "derived"),
                above("smallest fall of E[n] with alpha", 0.0, "derived"),
            ),
            measured_by=Exact(expected_length),
            deviations=("Paper: Pythia on HH and TL;DR. Here: 13 answers of one or two tokens.",),
        ),
        Claim(
            name="trained-length",
            words="Policies trained by R-DPO write shorter answers, the shorter the larger alpha is.",
            source="figure 3, and the regularised loss",
            expected=tuple(
                above(f"tokens at alpha {less} minus those at {more}", 0.0, "derived")
                for less, more in itertools.pairwise(_TRAINED_ALPHAS)
            ),
            measured_by=Trained(
                (
                    "experiment=lab_dpo",
                    "tracking=none",
                    "objective=r_dpo",
                    "objective.beta=0.1",
                    f"objective.alpha={','.join(_TRAINED_ALPHAS)}",
                    "trainer.max_steps=200",
                    "seed=0,1,2,3,4",
                ),
                trained_length,
            ),
            deviations=(
                "Paper: Pythia 2.8B on HH and TL;DR, sampled answers. Here: the lab's transformer, answers of up to "
                "five tokens, and their exact expected length. Seeds change the order of the pairs only.",
            ),
        ),
        Claim(
            name="length-controlled-gain",
            words="On HH, R-DPO gains close to 20 points of length-controlled win-rate over DPO.",
            source="length-controlled win-rates",
            expected=(above("gain in points", 10.0, "printed-via-notes"),),
            measured_by=None,
            scale="full",
        ),
    ),
)
