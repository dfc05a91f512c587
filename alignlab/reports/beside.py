"""Draws a figure with two sides (`alignlab.reports.drawing`) with matplotlib, for documents."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignlab.reports.drawing import Drawing, Panel, Series
from alignlab.reports.figures import COLOURS, marker, styled

_WIDTH, _HEIGHT, _LOW = 8.0, 2.6, 1.6  # of the figure, of a row, and of a row if there are many; inches
_FEW = 3  # rows
_LEGEND = 110  # characters in a line of the legend


def beside(drawing: Drawing, style: str = "screen") -> Figure:
    """The figure. A side without numbers says so."""
    with styled(style):
        count = len(drawing.rows)
        figure = Figure(figsize=(_WIDTH, (_HEIGHT if count <= _FEW else _LOW) * count + 0.7), layout="constrained")
        grid = figure.subplots(count, 2, squeeze=False, sharex=True, sharey=True)
        for row, both in enumerate(drawing.rows):
            for side, panel in enumerate(both):
                _panel(grid[row][side], panel, drawing)
                if row == count - 1:
                    grid[row][side].set_xlabel(drawing.x)
            grid[row][0].set_ylabel(drawing.y)
        shown = {
            name: handle
            for axes in grid.flat
            for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
            if name
        }
        columns = max(1, min(len(shown), _LEGEND // (max(map(len, shown), default=0) + 7)))
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=columns, fontsize=8)
    return figure


def _panel(axes: Axes, panel: Panel | None, drawing: Drawing) -> None:
    axes.set_ylim(*drawing.y_range)
    if drawing.x_range:
        axes.set_xlim(*drawing.x_range)
    if drawing.log_x:
        axes.set_xscale("log")
    if drawing.categories:
        axes.set_xticks(range(len(drawing.categories)), list(drawing.categories))
    if panel is None:
        axes.text(0.5, 0.5, "no numbers", transform=axes.transAxes, ha="center", color="#6b6b6b")
        return
    axes.set_title(panel.title, fontsize=10)
    for series in panel.series:
        _series(axes, series, drawing)


def _series(axes: Axes, series: Series, drawing: Drawing) -> None:
    x = [drawing.categories.index(str(value)) for value in series.x] if drawing.categories else list(series.x)
    if series.style == "exact":
        axes.plot(x, series.y, color="black", ls="--", lw=1.2, label=series.name)
        return
    place = drawing.names.index(series.name)
    colour = COLOURS[place % len(COLOURS)]
    marks = "" if series.style == "line" else marker(place)
    line = "none" if series.style == "points" else "-"
    fill = "none" if series.open else colour
    axes.plot(x, series.y, color=colour, marker=marks, ls=line, ms=5, mfc=fill, label=series.name)
    if series.low and series.style == "line":
        axes.fill_between(x, series.low, series.high, color=colour, alpha=0.18, lw=0)
    elif series.low:
        axes.vlines(x, series.low, series.high, color=colour, lw=1)
    if series.left:
        axes.hlines(series.y, series.left, series.right, color=colour, lw=1)
