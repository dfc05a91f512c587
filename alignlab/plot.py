"""Figures of a sweep, in one line of a notebook: `alignlab.plot.frontier("dpo_beta-7c897c")`.

Each function takes a sweep (folder, name, or the beginning of a name) or runs and conditions, as `alignlab plot` does,
and returns a matplotlib figure. Nothing is written; `figure.savefig(...)` does that. Imports no torch.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alignlab.reports.collect import Collected


def frontier(*sweep: str | Path, output_root: str | Path = "outputs", style: str = "screen") -> Figure:
    """Reward against KL (nats per answer) with the exact frontier if there is one.

    style: screen or paper.
    Raises DataError if no finished run has both.
    """
    from alignlab.reports import figures

    return _shown(figures.frontier(_found(sweep, output_root), style=style))


def strength(
    *sweep: str | Path, metric: str = "", output_root: str | Path = "outputs", style: str = "screen"
) -> Figure:
    """A metric against the strength, one line for each method. Raises DataError if no run has the metric."""
    from alignlab.reports import figures

    return _shown(figures.strength(_found(sweep, output_root), str(metric or ""), style=style))


def curves(*sweep: str | Path, metric: str = "", output_root: str | Path = "outputs", style: str = "screen") -> Figure:
    """A training curve, one line for each setting. Raises DataError if no run has the metric."""
    from alignlab.reports import figures

    return _shown(figures.curves(_found(sweep, output_root), str(metric or ""), style=style))


def forest(*sweep: str | Path, output_root: str | Path = "outputs", style: str = "screen") -> Figure:
    """Win-rates with their intervals. Raises DataError if no run has a win-rate."""
    from alignlab.reports import figures

    return _shown(figures.forest(_found(sweep, output_root), style=style))


def _shown(figure: Figure) -> Figure:
    """The figure. In a notebook, the image of a figure is shown from now on, unless that is set up already.

    IPython knows how to show figures only after pyplot was imported, and the figures here are made without it.
    """
    ipython = sys.modules.get("IPython")
    if (shell := ipython.get_ipython() if ipython else None) is None:
        return figure
    images = shell.display_formatter.formatters["image/png"]
    try:
        images.lookup_by_type(type(figure))
    except KeyError:
        images.for_type(type(figure), _png)
    return figure


def _png(figure: Figure) -> bytes:
    image = BytesIO()
    figure.savefig(image, format="png", bbox_inches="tight")
    return image.getvalue()


def _found(words: tuple[str | Path, ...], output_root: str | Path) -> Collected:
    from alignlab.reports.chosen import chosen_runs

    return chosen_runs(Path(output_root), [str(word) for word in words])
