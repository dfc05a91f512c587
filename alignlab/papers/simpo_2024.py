"""SimPO: Meng et al. 2024."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from alignlab.objectives.cpo import CPO
from alignlab.objectives.simpo import SimPO
from alignlab.papers.claim import Claim, Exact, Paper, Trained, above, below, near
from alignlab.papers.finished import Finished, by_setting, over_seeds, paired_difference
from alignlab.papers.printed import points_of
from alignlab.types import Logps, PairLogps


def _pair(better: torch.Tensor, worse: torch.Tensor) -> PairLogps:
    """One pair of answers with these log-probabilities of tokens."""
    first, second = (Logps(t[None], torch.ones(1, len(t), dtype=torch.bool)) for t in (better, worse))
    return PairLogps(first, second)


def length_normalised() -> dict[str, float]:
    """The loss of a pair, and how it changes if an answer is written twice; and the loss of an equally long pair."""
    better = torch.tensor([-0.5, -1.5, -1.0], dtype=torch.float64)
    worse = torch.tensor([-2.0, -0.8], dtype=torch.float64)
    loss = SimPO(2.0, 1.0)
    once, twice = (float(loss(_pair(better, torch.cat([worse] * times)))) for times in (1, 2))
    # at equal lengths n and gamma 0 it is CPO without its NLL term, with beta / n for beta
    same = _pair(better[:2], worse)
    difference = float(SimPO(2.0, 0.0)(same)) - float(CPO(1.0, nll_weight=0.0)(same))
    return {"loss": once, "change if an answer is repeated": abs(twice - once), "minus CPO": abs(difference)}


# Settings of the table: base model, and where its SFT comes from.
SETTINGS = ("Mistral-Base", "Mistral-Instruct", "Llama3-Base", "Llama3-Instruct")

# Standard errors of AlpacaEval 2 are about 1.4 points, so that two of them are about 3.
_TOLERANCE = 3.0


def _row_of_the_table(setting: str) -> Claim:
    """Ten objectives in one setting, as a claim about ten length-controlled win-rates."""
    printed = [
        point
        for point in points_of("simpo_2024")
        if point.figure == f"table, {setting}" and point.quantity == "length-controlled win-rate"
    ]
    return Claim(
        name=f"table-{setting.lower()}",
        words=f"With {setting}, SimPO has the highest length-controlled win-rate of ten objectives.",
        source="table of the authors' repository, version 0.1: AlpacaEval 2, length-controlled win-rates in percent",
        expected=tuple(near(str(point.x), point.y, _TOLERANCE, "printed") for point in printed),
        measured_by=None,
        scale="full",
        deviations=(
            "The paper tunes the learning rate of each objective, and the beta and gamma of SimPO for each setting. "
            "experiment=paper/ultrafeedback_zephyr has those of Mistral-Base.",
        ),
    )


def likelihoods(runs: Sequence[Finished]) -> dict[str, list[float]]:
    """How often each objective orders held-out pairs rightly by log-probability per token, and DPO by its reward."""
    by_likelihood = by_setting(runs, "eval/pref/likelihood_accuracies")
    by_reward = by_setting(runs, "eval/rewards/accuracies")
    dpo, simpo = "objective=dpo", "objective=simpo"
    own = over_seeds(by_reward, dpo)
    return {
        "accuracy by likelihood: SimPO minus DPO": paired_difference(by_likelihood, simpo, dpo),
        "DPO: accuracy by reward minus by likelihood": [
            reward - other for reward, other in zip(own, over_seeds(by_likelihood, dpo), strict=True)
        ],
    }


PAPER = Paper(
    name="simpo_2024",
    title="SimPO: Simple Preference Optimization with a Reference-Free Reward",
    authors="Meng et al. 2024",
    url="https://arxiv.org/abs/2405.14734",
    remarks=(
        "Three conventions of the margin are in use: gamma (paper), gamma / beta (the authors' repository, HALOs), and "
        "a default of TRL's that makes gamma / beta 5.",
    ),
    claims=(
        Claim(
            name="length-normalised",
            words="SimPO's reward is the mean log-probability of a token: an answer gains nothing by being longer, "
            "and its target margin is gamma.",
            source="equation 6, and the reward in it",
            expected=(
                # mean -1 against mean -1.4: -log sigma(2 * 0.4 - 1)
                near("loss", 0.79813887, 1e-8, "derived"),
                below("change if an answer is repeated", 1e-12, "derived"),
                below("minus CPO", 1e-12, "derived"),
            ),
            measured_by=Exact(length_normalised),
        ),
        Claim(
            name="likelihoods",
            words="DPO's reward orders pairs otherwise than the likelihood that decides what is generated: after DPO, "
            "fewer held-out pairs are ordered rightly by their mean log-probability than by its reward, and fewer "
            "than after SimPO.",
            source="figure 4 and section 4.3: half of the pairs are ordered differently by DPO's reward",
            expected=(
                above("accuracy by likelihood: SimPO minus DPO", 0.0, "printed-via-notes"),
                above("DPO: accuracy by reward minus by likelihood", 0.0, "printed-via-notes"),
            ),
            measured_by=Trained(
                (
                    "experiment=lab_dpo",
                    "tracking=none",
                    "objective=dpo,simpo",
                    "trainer.max_steps=200",
                    "seed=0,1,2,3,4",
                ),
                likelihoods,
            ),
            deviations=(
                "Paper: Llama-3 and Mistral on UltraFeedback. Here: the lab's transformer on Bradley-Terry pairs of "
                "answers of up to five tokens. Seeds change the order of the pairs only.",
            ),
        ),
        Claim(
            name="llama-3-instruct",
            words="On Llama-3-Instruct, SimPO has a higher length-controlled win-rate than DPO.",
            source="table of the repository, version 0.2: 53.7 against 48.2",
            expected=(near("SimPO minus DPO in points", 5.5, 2.0, "printed"),),
            measured_by=None,
            scale="full",
        ),
        *map(_row_of_the_table, SETTINGS),
    ),
)
