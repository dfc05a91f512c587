"""Figures of DPO: reward against KL with the exact frontier, and win-rates against the sampling temperature."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from alignlab.lab.frontier import Frontier, expected, kl
from alignlab.objectives.dpo import DPO
from alignlab.papers.dpo_2023 import certain_labels, descent
from alignlab.papers.figure import PaperFigure, Rows, drawn_points, is_measured, printed_only
from alignlab.papers.printed import Point, series_of
from alignlab.papers.tabular import random_answers
from alignlab.reports.drawing import Drawing, Panel, Series

_ANSWERS, _UPDATES = 40, 800
_SMALL = ("imdb-smollm2", "imdb-smollm2-grid")
_BETAS = (0.02, 0.05, 0.1, 0.5, 1.0)


def _reward_and_kl(points: Sequence[Point], rows: Rows) -> Drawing:
    ours = Panel(f"{_ANSWERS} answers, exact", _measured()) if is_measured(rows, "dominates-ideal-rl") else None
    return Drawing(
        "reward-kl",
        "Figure 2 (left): reward against KL",
        "KL to the reference (nats per answer)",
        "reward",
        ((Panel("IMDb, GPT-2-large", series_of(points)), ours),),
        "Left: read from the figure by third parties, ± 0.03 (open marks). Right: the construction of the "
        f"claims with {_ANSWERS} answers in place of 12, so that KLs are larger. Rewards are scaled so that "
        "the worst answer has 0 and the best has 1. No policy lies above the exact frontier. On labels by "
        "Bradley-Terry, DPO's minimum lies on it (Theorem 1). On labels without noise, DPO moves along it and its KL "
        "depends on the number of updates.",
    )


def _with_smollm2(points: Sequence[Point], rows: Rows) -> Drawing:
    panels = tuple(_panel_of(rows, claim) for claim in _SMALL)
    left = Panel("IMDb, GPT-2-large", series_of(points))
    return Drawing(
        "reward-kl-smollm2",
        "Figure 2 (left) with SmolLM2-135M",
        "KL to the reference (nats per answer)",
        "probability of a good sentiment",
        tuple((left, panel) for panel in panels if panel) or ((left, None),),
        "Left: read from the figure by third parties, ± 0.03 (open marks). Right: estimates from one sample for each "
        "held-out review, with 95 % intervals over reviews in both directions. Best-of-n stands at the upper bound of "
        "its KL. The models, the rewards and the budgets differ, so only the order of the lines can be compared.",
    )


def _panel_of(rows: Rows, claim: str) -> Panel | None:
    if not is_measured(rows, claim):
        return None
    curves = rows[claim].record.get("curves", {})
    title = "SmolLM2-135M" if claim == _SMALL[0] else "SmolLM2-135M, the whole grid"
    return Panel(title, tuple(drawn_points(curve, name) for name, curve in curves.items()))


def _among_candidates(points: Sequence[Point], rows: Rows) -> Drawing:
    right = None
    if is_measured(rows, "candidates-smollm2"):
        curves = rows["candidates-smollm2"].record["curves"]
        frontier = curves["frontier"]
        series = (
            Series("DPO", curves["DPO"]["x"], curves["DPO"]["y"]),
            Series("exact frontier", frontier["x"], frontier["y"], style="exact"),
        )
        right = Panel("SmolLM2-135M, a choice among 100 continuations", series)
    return Drawing(
        "candidates-smollm2",
        "Reward against KL for a real model, exact",
        "KL to the reference (nats per answer)",
        "reward (log-odds of a good sentiment)",
        ((None, right),),
        "The probabilities of the candidates are divided by their sum, so nothing is estimated. The paper has no such "
        "figure.",
    )


@cache
def _measured() -> tuple[Series, ...]:
    answers = random_answers(_ANSWERS)
    reward = (answers.reward - answers.reward.min()) / np.ptp(answers.reward)
    reference = answers.reference[None]

    def at(policy: np.ndarray) -> tuple[float, float]:
        return kl(policy[None], reference), expected(policy[None], reward[None])

    found = []
    for beta in (0.05, 1.0, 5.0):
        x, y = zip(*map(at, descent(answers, DPO(beta), certain_labels(answers), _UPDATES)), strict=True)
        found.append(Series(f"DPO, labels without noise, beta {beta:g}", x, y))
    minima = [at(answers.minimum(answers.expected_loss(DPO(beta), answers.sampled))) for beta in _BETAS]
    x, y = zip(*minima, strict=True)
    found.append(Series("DPO's minimum, Bradley-Terry labels", x, y, style="points"))
    curve = Frontier(reference, reward[None]).curve(0.999 * -float(answers.reference[reward.argmax()]))
    return (*found, Series("exact frontier", [p[0] for p in curve], [p[1] for p in curve], style="exact"))


FIGURES = (
    PaperFigure(("dominates-ideal-rl", "theorem-1", "frontier", "figure-2-left"), ("figure 2 (left)",), _reward_and_kl),
    PaperFigure(("candidates-smollm2",), (), _among_candidates),
    PaperFigure(_SMALL, ("figure 2 (left)",), _with_smollm2),
    PaperFigure(
        ("figure-2-right",),
        ("figure 2 (right)",),
        printed_only(
            "temperature",
            "Figure 2 (right): win-rate on TL;DR against the sampling temperature",
            "sampling temperature",
            "win-rate",
            caption="Win-rates against the reference summaries, read from the figure by third parties, ± 0.03.",
        ),
        also=("figure 4", "section 6.2", "counts of wins among 256 answers"),
    ),
)
