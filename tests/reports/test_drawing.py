"""Figures with two sides: one pair of axes for both, colours by name, and what a side without numbers says."""

from __future__ import annotations

import math

from alignlab.reports.beside import beside
from alignlab.reports.drawing import Drawing, Panel, Series

LEFT = Panel("theirs", (Series("DPO", (0.0, 4.0), (0.5, 0.9), open=True), Series("PPO", (1.0,), (0.7,))))
RIGHT = Panel(
    "ours", (Series("DPO", (2.0,), (0.6,), (0.2,), (1.0,)), Series("frontier", (0.0, 5.0), (0.0, 1.1), style="exact"))
)
DRAWING = Drawing("kl", "reward and KL", "KL", "reward", ((LEFT, RIGHT), (None, RIGHT)))


def test_both_sides_share_axes_that_hold_all_intervals() -> None:
    assert DRAWING.names == ["DPO", "PPO"]
    low, high = DRAWING.y_range
    assert math.isclose(low, 0.0 - 0.06 * 1.1)
    assert math.isclose(high, 1.1 + 0.06 * 1.1)
    assert DRAWING.x_range == (-0.3, 5.3)
    figure = beside(DRAWING)
    assert {axes.get_ylim() for axes in figure.axes} == {(low, high)}
    assert {axes.get_xlim() for axes in figure.axes} == {(-0.3, 5.3)}


def test_colours_follow_names_and_the_truth_is_black() -> None:
    left, right, empty, _ = beside(DRAWING).axes
    assert left.lines[0].get_color() == right.lines[0].get_color() != left.lines[1].get_color()
    assert right.lines[1].get_color() == "black"
    assert left.lines[0].get_markerfacecolor() == "none"
    assert [text.get_text() for text in empty.texts] == ["no numbers"]


def test_values_for_a_page() -> None:
    plain = DRAWING.plain()
    assert [(panel["row"], panel["side"], len(panel["series"])) for panel in plain["panels"]] == [
        (0, "left", 2), (0, "right", 2), (1, "left", 0), (1, "right", 2),
    ]  # fmt: skip
    assert plain["panels"][1]["series"][0] == {
        "name": "DPO", "style": "joined", "open": False, "x": [2.0], "y": [0.6], "low": [0.2], "high": [1.0],
        "left": [], "right": [],
    }  # fmt: skip


def test_intervals_of_both_axes() -> None:
    """The axes hold them, the page gets them, and an interval that is not known is left out."""
    both = Series("DPO", (2.0, 3.0), (0.6, 0.7), (0.5, math.nan), (0.8, math.nan), left=(1.0, 2.5), right=(4.0, 9.0))
    drawing = Drawing("kl", "", "KL", "reward", ((None, Panel("ours", (both,))),))
    assert drawing.x_range == (1.0 - 0.06 * 8, 9.0 + 0.06 * 8)
    assert drawing.y_range == (0.5 - 0.06 * 0.3, 0.8 + 0.06 * 0.3)
    (series,) = drawing.plain()["panels"][1]["series"]
    assert (series["left"], series["right"], series["low"]) == ([1.0, 2.5], [4.0, 9.0], [0.5, None])
    segments = [line.get_segments()[0].tolist() for line in beside(drawing).axes[1].collections]
    assert [[1.0, 0.6], [4.0, 0.6]] in segments


def test_a_figure_without_numbers() -> None:
    drawing = Drawing("kl", "", "KL", "reward", ((None, None),))
    assert (drawing.x_range, drawing.y_range) == ((0.0, 1.0), (0.0, 1.0))
    assert all(axes.texts[0].get_text() == "no numbers" for axes in beside(drawing).axes)


def test_categories_have_one_order() -> None:
    one = Panel("", (Series("raw", ("after", "before"), (1.0, 2.0)),))
    drawing = Drawing("p", "", "", "p", ((one, None),), categories=("before", "after"))
    assert drawing.x_range is None
    (line,) = beside(drawing).axes[0].lines
    assert list(line.get_xdata()) == [1, 0]
