"""Figures are shown in notebooks, and everywhere else nothing happens."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure

from alignlab.errors import ConfigError
from alignlab.plot import _shown
from alignlab.reports.figures import styled


def test_a_notebook_shows_the_image_of_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pytest.importorskip("IPython.core.formatters").PNGFormatter()
    shell = SimpleNamespace(display_formatter=SimpleNamespace(formatters={"image/png": images}))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, version_info=(9,)))
    figure = Figure()
    assert images(figure) is None
    assert _shown(figure) is figure
    assert images(figure).startswith(b"\x89PNG")
    images.for_type(Figure, lambda figure: "the user's own")
    _shown(figure)
    assert images(figure) == "the user's own"


def test_outside_of_a_notebook_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = Figure()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None, version_info=(9,)))
    assert _shown(figure) is figure
    monkeypatch.delitem(sys.modules, "IPython")
    assert _shown(figure) is figure


def test_an_unknown_style_is_a_message() -> None:
    with pytest.raises(ConfigError, match='must be one of paper, screen\n      type: style="screen"'), styled("print"):
        pass
