"""Figures of IPO: the two-action limit, and the probabilities of a bandit's actions along the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from alignlab.papers.figure import PaperFigure, Rows, curve_of, drawn_curve, is_measured, measured
from alignlab.papers.printed import Point, series_of
from alignlab.reports.drawing import Drawing, Panel, Series

_UPDATES = 18_000
_D1, _D2, _D3 = "figure 1 (D1)", "section 5.4 (D2)", "figure 2 (D3 with a > c)"
# Loss -> (name of its strength, series of the paper's limits).
_PRINTED = {"ipo": ("tau", "IPO tau={}"), "dpo": ("beta", "DPO any tau")}
_LIMITS = "Left: the limits that follow from the paper's losses; its curves are not printed as numbers."
_OURS = "Right: mean of the seeds with 95 % intervals."


def _two_actions(points: Sequence[Point], rows: Rows) -> Drawing:
    found = measured(rows, "two-actions")
    lines = []
    for name, key in (("IPO", "IPO's pi(y1) at tau "), ("DPO", "DPO's pi(y1) at beta ")):
        own = {float(q.removeprefix(key)): values[0] for q, values in found.items() if q.startswith(key)}
        lines.append(Series(name, list(own), list(own.values())))
    return Drawing(
        "two-actions",
        "Section 5.3.1: probability of an action that always wins",
        "tau (IPO) or beta (DPO)",
        "pi(y1)",
        ((Panel("", series_of(points)), Panel("", tuple(lines)) if found else None),),
    )


def _row(
    points: Sequence[Point], rows: Rows, claim: str, data: str, loss: str, strength: str
) -> tuple[Panel, Panel | None]:
    """The probabilities of the three actions in one setting: the paper's limits, and ours against the updates."""
    setting = f"objective={loss} strength={strength}"
    symbol, series = _PRINTED[loss]
    wanted = series.format(strength)
    limits = [p for p in points if p.series == wanted]
    title = f"{data}, {loss.upper()}, {symbol} {strength}"
    left = Panel(title, tuple(Series(f"pi({p.x})", (0, _UPDATES), (p.y, p.y), style="line") for p in limits))
    if not is_measured(rows, claim):
        return left, None
    drawn = []
    for action in "abc":
        name = f"{setting}: pi({action})"
        curve, ends = curve_of(rows, claim, name), measured(rows, claim).get(name)
        if curve:
            drawn.append(drawn_curve(curve, f"pi({action})"))
        elif ends:
            drawn.append(Series(f"pi({action})", (_UPDATES,), (sum(ends) / len(ends),), style="points"))
    return left, Panel(title, tuple(drawn))


def _bandit(name: str, data: str, claim: str) -> Callable[[Sequence[Point], Rows], Drawing]:
    def draw(points: Sequence[Point], rows: Rows) -> Drawing:
        settings = [(loss, strength) for loss in _PRINTED for strength in ("0.1", "0.5", "1")]
        return Drawing(
            name,
            f"{data}: probabilities of the actions against the updates",
            "updates",
            "probability",
            tuple(_row(points, rows, claim, data, loss, strength) for loss, strength in settings),
            f"{_LIMITS} {_OURS}",
        )

    return draw


def _all_bandits(points: Sequence[Point], rows: Rows) -> Drawing:
    """D1, D2 and D3 at one strength."""
    parts = (
        ("D1", _D1, "bandit-d1"), ("D2", _D2, "bandit-d2"), ("D3 with a > c", _D3, "bandit-d3-amended"),
    )  # fmt: skip
    return Drawing(
        "actions",
        "Section 5.4: probabilities of the actions against the updates, on D1, D2 and D3",
        "updates",
        "probability",
        tuple(
            _row([p for p in points if p.figure == source], rows, claim, data, loss, "0.5")
            for data, source, claim in parts
            for loss in _PRINTED
        ),
        f"{_LIMITS} {_OURS} D3 as printed has no pair with c, so c keeps its probability; the pair (a, c) is added.",
    )


FIGURES = (
    PaperFigure(("two-actions",), ("section 5.3.1",), _two_actions),
    PaperFigure(("bandit-d1",), (_D1, _D2, _D3), _all_bandits),
    PaperFigure(("bandit-d1",), (_D1,), _bandit("d1", "D1", "bandit-d1")),
    PaperFigure(("bandit-d2",), (_D2,), _bandit("d2", "D2", "bandit-d2")),
    PaperFigure(
        ("bandit-d3-amended",), (_D3,), _bandit("d3", "D3 with a > c", "bandit-d3-amended"),
        also=("figure 2 (D3 as printed)",),
    ),
)  # fmt: skip
