"""Figure of Zheng et al. 2023: how often a judge gives the same verdict in both orders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from alignlab.papers.figure import PaperFigure, Rows, is_measured
from alignlab.papers.printed import Point
from alignlab.papers.tabular import sigmoid
from alignlab.papers.zheng_2023 import simulated
from alignlab.reports.drawing import Drawing, Panel, Series
from alignlab.statistics.intervals import mean_interval

_BIASES = (0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4)


def _consistency(points: Sequence[Point], rows: Rows) -> Drawing:
    ends = (_BIASES[0], _BIASES[-1])
    left = tuple(Series(p.series, ends, (p.y, p.y), style="line") for p in points)
    ours = Panel("simulated judge, equal quality", _measured()) if is_measured(rows, "both-orders") else None
    return Drawing(
        "consistency",
        "Table 2: share of pairs with the same verdict in both orders",
        "bias towards the answer shown first (log-odds)",
        "consistency in %",
        ((Panel("judges; their bias in log-odds is not known", left), ours),),
        "Right: 2,000 pairs for each of 10 seeds, and the closed form 2 sigma(b) sigma(-b). The paper's pairs "
        "differ in quality, which makes verdicts more consistent than at equal quality.",
    )


@cache
def _measured() -> tuple[Series, ...]:
    means = [mean_interval([100 * simulated(seed, bias)["consistency"] for seed in range(10)]) for bias in _BIASES]
    low, high = [m.low for m in means], [m.high for m in means]
    x = np.linspace(_BIASES[0], _BIASES[-1], 40)
    return (
        Series("simulated judge", _BIASES, [m.value for m in means], low, high, style="points"),
        Series("closed form", x.tolist(), (200 * sigmoid(x) * sigmoid(-x)).tolist(), style="exact"),
    )


FIGURES = (
    PaperFigure(
        ("both-orders", "gpt-4-consistency"),
        ("table 2",),
        _consistency,
        also=("table 2, renamed assistants", "section 3.4"),
    ),
)
