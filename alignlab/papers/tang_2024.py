"""Online against offline at equal KL: Tang et al. 2024."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignlab.papers.claim import Claim, Paper, Trained, above
from alignlab.papers.finished import Finished

# Centre of the reward -> how often the author of the data writes the best answers.
_WORLDS = {"70": "rare", "20": "common"}
_COMPARED = ("online_dpo", "dpo")


def at_equal_kl(runs: Sequence[Finished]) -> dict[str, list[float]]:
    """Reward of online DPO minus that of DPO, at half of the largest KL that both reached, for each seed and world."""
    found: dict[str, list[float]] = {}
    by_axes = {(run.axes["objective"], run.axes["data.settings.centre"], run.seed): run for run in runs}
    for centre, seed in sorted({(centre, seed) for _, centre, seed in by_axes}):
        paths = [_path(by_axes[objective, centre, seed]) for objective in _COMPARED]
        kl = min(kls[-1] for kls, _ in paths) / 2
        online, offline = (float(np.interp(kl, *path)) for path in paths)
        name = f"online minus offline where the best answers are {_WORLDS[centre]}"
        found.setdefault(name, []).append(online - offline)
    return found


def _path(run: Finished) -> tuple[list[float], list[float]]:
    """(KLs, rewards) at the start of a run and at its evaluations, by KL."""
    kl, reward = run.curve("exact/kl"), run.curve("exact/reward")
    points = sorted([(0.0, run.metric("exact/reward_reference")), *((kl[step], reward[step]) for step in kl)])
    return [x for x, _ in points], [y for _, y in points]


PAPER = Paper(
    name="tang_2024",
    title="Understanding the Performance Gap between Online and Offline Alignment Algorithms",
    authors="Tang et al. 2024",
    url="https://arxiv.org/abs/2405.08448",
    claims=(
        Claim(
            name="equal-kl",
            words="At equal KL, a policy that was trained on its own samples has a higher reward than one that was "
            "trained on data.",
            source="figure 1",
            expected=tuple(
                above(f"online minus offline where the best answers are {where}", 0.0, "printed-via-notes")
                for where in ("rare", "common")
            ),
            measured_by=Trained(
                (
                    "experiment=paper/tajwar",
                    "data.settings.centre=70,20",
                    "objective=dpo,online_dpo",
                    "strength=0.05",
                    "trainer.eval_every=30",
                    "seed=0,1,2,3,4,5",
                ),
                at_equal_kl,
                launcher="auto",
                online=True,
            ),
            deviations=(
                "Paper: T5 on TL;DR, HH and others, win-rates by a gold preference model. Here: the worlds of "
                "tajwar_2024, a table over 100 answers, exact reward and exact KL.",
                "Here: at half of the largest KL that both policies of a seed reached.",
            ),
        ),
    ),
    remarks=(
        "Where the best answers are common in the data, nearly every pair has one, and DPO on these pairs is ahead at "
        "equal KL. So the claim does not hold for every task. The paper's tasks have far more answers than their data "
        "covers, as the world with rare answers has; there online DPO is ahead here too.",
    ),
)
