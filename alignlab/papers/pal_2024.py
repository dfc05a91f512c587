"""DPO-Positive: Pal et al. 2024."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from alignlab.objectives.dpo import DPO
from alignlab.objectives.dpop import DPOP
from alignlab.papers.claim import Claim, Exact, Paper, Trained, above, below, near
from alignlab.papers.finished import Finished, by_setting, over_seeds
from alignlab.papers.softmax_model import NEVER, NO, descend, no_never_yes
from alignlab.papers.tabular import Answers, tensor


def keeps_the_chosen() -> dict[str, float]:
    """How far p(preferred) falls under both losses, with the paper's beta and lambda, on Razin's four tokens."""
    found = {}
    for name, loss in (("DPO", DPO(0.3)), ("DPOP", DPOP(0.3, penalty=50.0))):
        path = descend(no_never_yes(), (NO, NEVER), loss, rate=0.01, steps=500)
        found[f"largest drop of p(chosen) under {name}"] = float(path[0][NO] - min(p[NO] for p in path))
    return found


def gradient_ratio() -> dict[str, float]:
    """The gradient in log pi(chosen) over that in log pi(rejected), once the chosen answer is below its reference."""
    answers = Answers(torch.log(tensor(0.5, 0.5)).numpy())
    policy = torch.log(tensor(0.3, 0.7)).requires_grad_()
    first, second = torch.tensor([0]), torch.tensor([1])
    DPOP(0.3, penalty=50.0)(answers.pairs(policy, first, second)).sum().backward()
    assert policy.grad is not None
    return {"gradient ratio": float(-policy.grad[0] / policy.grad[1])}


def log_ratios(runs: Sequence[Finished]) -> dict[str, list[float]]:
    """Log-ratios of held-out pairs (nats), means over the pairs, for DPO and DPOP."""
    found = {}
    for key, name in (("dpo", "DPO"), ("dpop", "DPOP")):
        for metric, words in (("chosen", "log-ratio of chosen"), ("margins", "margin")):
            values = by_setting(runs, f"eval/logratios/{metric}")
            found[f"{words} under {name}"] = over_seeds(values, f"objective={key}")
    return found


PAPER = Paper(
    name="pal_2024",
    title="Smaug: Fixing Failure Modes of Preference Optimisation with DPO-Positive",
    authors="Pal et al. 2024",
    url="https://arxiv.org/abs/2402.13228",
    claims=(
        Claim(
            name="keeps-the-chosen",
            words="DPO can lower the probability of the preferred answer; DPOP does not let it fall below the "
            "reference's.",
            source="equation 3; figure 4",
            expected=(
                above("largest drop of p(chosen) under DPO", 0.1, "derived"),
                below("largest drop of p(chosen) under DPOP", 0.01, "derived"),
            ),
            measured_by=Exact(keeps_the_chosen),
            deviations=("Paper: MetaMath and ARC. Here: the four tokens of razin_2024, beta 0.3 and lambda 50.",),
        ),
        Claim(
            name="chosen-falls-in-training",
            words="While the margin grows, DPO makes preferred answers less likely, and DPOP does not.",
            source="section 3 and figure 4",
            expected=(
                below("log-ratio of chosen under DPO", -1.0, "derived"),
                near("log-ratio of chosen under DPOP", 0.0, 0.5, "derived"),
                above("margin under DPO", 0.0, "derived"),
                above("margin under DPOP", 0.0, "derived"),
            ),
            measured_by=Trained(
                ("experiment=paper/world_1", "objective=dpo,dpop", "strength=0.3", "seed=0,1,2,3,4"),
                log_ratios,
                launcher="auto",
            ),
            deviations=(
                "Paper: pairs of MetaMath that differ in few tokens. Here: strings of four letters, drawn from the "
                "reference, with a table as the policy; beta 0.3, lambda 50.",
            ),
        ),
        Claim(
            name="gradient-ratio",
            words="If the preferred answer is less probable than under the reference, it is pushed up 1 + lambda times "
            "as hard as the dispreferred one is pushed down.",
            source="equation 3",
            expected=(near("gradient ratio", 51.0, 1e-6, "derived"),),
            measured_by=Exact(gradient_ratio),
        ),
        Claim(
            name="figure-4",
            words="On pairs that differ in few tokens, the log-probability of the tokens after the difference falls "
            "under DPO and not under DPOP.",
            source="figure 4, MetaMath: -0.37 before, -0.26 with DPOP, -1.82 with DPO",
            expected=(near("DPOP minus DPO", 1.56, 0.3, "printed-via-notes"),),
            measured_by=None,
            scale="full",
        ),
    ),
)
