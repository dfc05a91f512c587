"""Data of the policy itself: Tajwar et al. 2024."""

from __future__ import annotations

from collections.abc import Sequence

from alignlab.papers.claim import Claim, Paper, Trained, above, near
from alignlab.papers.finished import Finished, by_setting, over_seeds, paired_difference

_SEEDS = ",".join(map(str, range(6)))


def online_gain(runs: Sequence[Finished]) -> dict[str, list[float]]:
    """The expected reward of both trained policies, and how much larger that of online DPO is."""
    reward = by_setting(runs, "exact/reward")
    online, offline = "objective=online_dpo", "objective=dpo"
    return {
        "reward of online DPO": over_seeds(reward, online),
        "reward of DPO on data": over_seeds(reward, offline),
        "online minus offline": paired_difference(reward, online, offline),
    }


def _bandit(centre: int) -> Trained:
    """Online objectives and DPO on the world whose best answer is number `centre` of 100."""
    words = ("experiment=paper/tajwar", f"data.settings.centre={centre}", "objective=dpo,online_dpo", "strength=0.05")
    return Trained((*words, f"seed={_SEEDS}"), online_gain, launcher="auto", online=True)


_HERE = (
    "Paper: a network over 100 contexts, ten samples to a context. Here: a table over 100 answers without context, and "
    "pairs of two samples.",
    "Both get 4,000 labelled answers and 600 updates of 50 pairs. DPO gets the answers at once, from the author of the "
    "data; online DPO samples them in 40 batches, each of which it uses 15 times.",
)

PAPER = Paper(
    name="tajwar_2024",
    title="Preference Fine-Tuning of LLMs Should Leverage Suboptimal, On-Policy Data",
    authors="Tajwar et al. 2024",
    url="https://arxiv.org/abs/2404.14367",
    claims=(
        Claim(
            name="unlikely-optimum",
            words="If the data hardly contains the best answers, training on samples of the policy itself reaches a "
            "higher reward than training on the data.",
            source="the bandit whose reward peaks where the data is thin",
            expected=(above("online minus offline", 0.0, "derived"), above("reward of online DPO", 0.8, "derived")),
            measured_by=_bandit(70),
            deviations=_HERE,
        ),
        Claim(
            name="likely-optimum",
            words="If the data contains the best answers, training on the data is about as good.",
            source="the bandit whose reward peaks where the data is dense",
            expected=(
                near("online minus offline", 0.0, 0.15, "derived"),
                above("reward of DPO on data", 0.8, "derived"),
            ),
            measured_by=_bandit(20),
            deviations=_HERE,
        ),
    ),
)
