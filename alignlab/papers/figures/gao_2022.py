"""Figures of Gao et al. 2022: the gold reward against the distance, with both forms, and their coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from alignlab.papers.figure import PaperFigure, Rows, is_measured, printed_only
from alignlab.papers.gao_2022 import FORMS, fitted, optimised
from alignlab.papers.printed import Point, series_of
from alignlab.reports.drawing import Drawing, Panel, Series
from alignlab.statistics.intervals import mean_interval

_SEEDS = 10


def _hump(points: Sequence[Point], rows: Rows) -> Drawing:
    ours = Panel("32,768 sequences, exact RL", _measured()) if is_measured(rows, "hump") else None
    return Drawing(
        "hump",
        "Figure 1: gold reward against the distance from the reference",
        "d = square root of the KL (nats)",
        "gold reward",
        ((Panel("1.2B policy, reward models of 3M and 3B", series_of(points, style="line")), ours),),
        "Left: the paper's two forms with coefficients that a third party read from figure 3. Right: the exact optimum "
        "of proxy reward minus beta KL, mean of 10 seeds with 95 % intervals, and both forms fitted to the mean.",
    )


@cache
def _measured() -> tuple[Series, ...]:
    runs = [optimised(seed) for seed in range(_SEEDS)]
    d = np.sqrt(np.mean([kls for kls, _ in runs], axis=0))
    gold = [mean_interval(values) for values in np.transpose([golds for _, golds in runs])]
    mean = np.array([one.value for one in gold])
    found = [Series("exact RL", d.tolist(), mean.tolist(), [g.low for g in gold], [g.high for g in gold], "points")]
    for form in FORMS:
        found.append(Series(form.words, d.tolist(), fitted(form, d, mean).tolist(), style="line"))
    return tuple(found)


FIGURES = (
    PaperFigure(("hump", "ideal-rl-form"), ("figure 1",), _hump),
    PaperFigure(
        ("coefficients",),
        ("figure 3",),
        printed_only("coefficients", "Figure 3: coefficients of both forms", "size of the reward model", "coefficient"),
    ),
)
