"""Figure of Razin et al. 2024: the probability of the preferred answer before and after DPO."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from alignlab.objectives.dpo import DPO
from alignlab.papers.figure import PaperFigure, Rows, is_measured
from alignlab.papers.printed import Point, series_of
from alignlab.papers.softmax_model import NEVER, NO, YES, descend, no_never_yes
from alignlab.reports.drawing import Drawing, Panel, Series


def _displacement(points: Sequence[Point], rows: Rows) -> Drawing:
    ours = Panel("four tokens, No > Never", _measured()) if is_measured(rows, "displacement") else None
    return Drawing(
        "displacement",
        "Table 1: probabilities before and after DPO",
        "",
        "probability",
        ((Panel("preferred answer, largest drop", series_of(points)), ours),),
        "Left: the mean over ten prompts of the largest drop, for each model and pair. Right: before the first and "
        "after the 500th step.",
        categories=("before", "after"),
    )


@cache
def _measured() -> tuple[Series, ...]:
    path = descend(no_never_yes(), (NO, NEVER), DPO(0.1), rate=0.05, steps=500)
    names = {"p(No), preferred": NO, "p(Yes), in no pair": YES}
    return tuple(
        Series(name, ("before", "after"), (float(path[0][token]), float(path[-1][token])))
        for name, token in names.items()
    )


FIGURES = (PaperFigure(("displacement", "table-1-olmo"), ("table 1",), _displacement),)
