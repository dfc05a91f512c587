"""ORPO: Hong et al. 2024."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from alignlab.objectives.orpo import ORPO
from alignlab.papers.claim import Claim, Exact, Paper, Trained, above, below, near
from alignlab.papers.finished import Finished, by_setting, over_seeds, paired_difference
from alignlab.types import Logps, PairLogps


def _losses(means: torch.Tensor, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss without its NLL, loss) of one pair of answers with these mean log-probabilities, lambda = 1."""
    mask = torch.ones(1, tokens, dtype=torch.bool)
    pair = PairLogps(*(Logps(mean.expand(1, tokens), mask) for mean in means))
    return (ORPO(1.0)(pair) - ORPO(0.0)(pair)).sum(), ORPO(1.0)(pair).sum()


def odds_ratio() -> dict[str, float]:
    """The odds-ratio term and its gradient at mean log-probabilities -0.5 and -1, for answers of 1 and of 3 tokens."""
    means = torch.tensor([-0.5, -1.0], dtype=torch.float64, requires_grad=True)
    term, whole = _losses(means, 1)
    slopes = torch.autograd.grad(term, means)[0]
    # delta = 1 / (1 + odds_w / odds_l), h = 1 / (1 - P)
    probability = means.detach().exp()
    odds = probability / (1 - probability)
    delta = 1 / (1 + odds[0] / odds[1])
    formula = torch.stack([-delta / (1 - probability[0]), delta / (1 - probability[1])])
    longer = _losses(means, 3)[1]
    return {
        "odds-ratio loss": float(term.detach()),
        "gradient in the chosen log-probability": float(slopes[0]),
        "gradient in the rejected log-probability": float(slopes[1]),
        "largest error of the gradient": float((slopes - formula).abs().max()),
        "change with the length": float((longer - whole).detach().abs()),
    }


# lambda of ORPO; at 0 the loss is that of SFT on the preferred answers.
_LAMBDAS = ("0", "0.1", "0.5", "1")


def both_answers(runs: Sequence[Finished]) -> dict[str, list[float]]:
    """How log-probabilities of held-out answers change (nats per answer), and what lambda adds to the gap."""
    chosen, rejected, gap = (by_setting(runs, f"eval/logratios/{name}") for name in ("chosen", "rejected", "margins"))
    names = {value: f"objective.odds_weight={value}" for value in _LAMBDAS}
    found = {
        "rise of chosen under SFT": over_seeds(chosen, names["0"]),
        "rise of rejected under SFT": over_seeds(rejected, names["0"]),
        "rise of rejected at lambda 1": over_seeds(rejected, names["1"]),
    }
    for less, more in itertools.pairwise(_LAMBDAS):
        added = paired_difference(gap, names[more], names[less])
        found[f"gap between chosen and rejected at lambda {more} minus that at {less}"] = added
    return found


PAPER = Paper(
    name="orpo_2024",
    title="ORPO: Monolithic Preference Optimization without Reference Model",
    authors="Hong et al. 2024",
    url="https://arxiv.org/abs/2403.07691",
    remarks=("Figure 6 and section 7.1 disagree about the effect of lambda.",),
    claims=(
        Claim(
            name="odds-ratio",
            words="The gradient of the odds-ratio term has two factors: delta vanishes as the preferred answer's odds "
            "grow, and h is 1 / (1 - P), where P is the exponential of the mean log-probability over tokens.",
            source="equations 6 and 7, and the gradient of the odds ratio",
            expected=(
                near("odds-ratio loss", 0.32029979, 1e-8, "derived"),
                near("gradient in the chosen log-probability", -0.69654377, 1e-8, "derived"),
                near("gradient in the rejected log-probability", 0.43357017, 1e-8, "derived"),
                below("largest error of the gradient", 1e-9, "derived"),
                below("change with the length", 1e-12, "derived"),
            ),
            measured_by=Exact(odds_ratio),
        ),
        Claim(
            name="sft-raises-both",
            words="SFT on preferred answers also raises the log-probability of dispreferred ones; ORPO separates the "
            "two, the more the larger lambda is.",
            source="figure 3, and the ablation of lambda in appendix E",
            expected=(
                above("rise of chosen under SFT", 0.0, "derived"),
                above("rise of rejected under SFT", 0.0, "derived"),
                *(
                    above(f"gap between chosen and rejected at lambda {more} minus that at {less}", 0.0, "derived")
                    for less, more in itertools.pairwise(_LAMBDAS)
                ),
            ),
            measured_by=Trained(
                (
                    "experiment=paper/orpo_figure_3",
                    f"objective.odds_weight={','.join(_LAMBDAS)}",
                    "seed=0,1,2,3,4,5,6,7",
                ),
                both_answers,
            ),
            deviations=(
                "Paper: OPT-350M on HH. Here: a transformer with one layer of width 32 and random weights, on strings "
                "of five of eight letters. Chosen and rejected strings follow the same grammar.",
            ),
            note="The paper has curves without numbers, so only directions are expected.",
        ),
        Claim(
            name="alpaca-eval-phi-2",
            words="Phi-2 with ORPO beats Phi-2 with SFT and DPO on AlpacaEval 1.",
            source="table 1: 71.80 against 50.63",
            expected=(near("ORPO minus DPO in points", 21.17, 5.0, "printed"),),
            measured_by=None,
            scale="full",
        ),
    ),
)
