"""Figures and tables for papers: what is drawn, its size, embedded fonts, and LaTeX that compiles in principle."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alignlab.errors import ConfigError, DataError
from alignlab.integrity import write_sealed
from alignlab.reports import figures
from alignlab.reports.collect import Collected, read_sweep
from alignlab.reports.figures import COLOURS, FIGURES, curves, forest, frontier, gap, save, strength
from alignlab.reports.latex import as_csv, escaped, latex, paper_tables
from alignlab.reports.series import frontier_frame, metric_frame, winrates_frame
from tests.reports.made_sweep import write


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Collected:
    return read_sweep(write(tmp_path_factory.mktemp("made")))


def test_the_frontier_has_a_colour_a_line_and_labels_at_their_ends(found: Collected) -> None:
    (axes,) = frontier(found).axes
    frame = frontier_frame(found)
    drawn = {line.get_color(): line.get_xydata() for line in axes.lines if len(line.get_xdata()) == 2}
    for place, name in enumerate(("dpo", "ipo")):
        rows = frame[frame["line"] == name].sort_values("strength")
        assert np.asarray(drawn[COLOURS[place]]) == pytest.approx(rows[["kl", "reward"]].to_numpy())
    texts = {text.get_text(): text.get_color() for text in axes.texts}
    assert texts == {"dpo": COLOURS[0], "ipo": COLOURS[1], "exact frontier": "black", "start": "black"}
    (start,) = [
        line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "D" and line.get_color() == "black"
    ]
    assert start == [[0.0, 0.0]]
    assert axes.get_legend() is None


def test_names_do_not_overlap_and_stand_at_the_height_of_their_ends(found: Collected) -> None:
    """Names beside the right edge keep a distance, and one whose end is far from the others stays at its height."""
    figure = Figure(figsize=(3.25, 2.3), layout="constrained")
    axes = figure.add_subplot()
    axes.set_ylim(0, 10)
    ends = {"a": 9.9, "b": 9.8, "c": 9.7, "d": 1.0}
    figures._label_ends(axes, {name: (1.0, y, "black") for name, y in ends.items()})
    places = {text.get_text(): text.xy[1] for text in axes.texts}  # type: ignore[attr-defined]
    assert places["d"] == 1.0
    assert places["a"] == 10.0, "the top of the axes"
    boxes = boxes_of(figure)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("style", ["paper", "screen"])
def test_long_names_leave_room_for_the_axes(style: str, found: Collected) -> None:
    with figures.styled(style):
        size = (figures._WIDTH[style], 2.3)
        one, other = (Figure(figsize=size, layout="constrained").add_subplot() for _ in range(2))
        figures._label_ends(one, {"m" * 300 + " 0.1": (1.0, 0.5, "black"), "short": (1.0, 0.1, "black")})
        other.set_yticks([0.0], [figures._fitting(other, "m" * 300 + " 0.1")])
        for axes in (one, other):
            FigureCanvasAgg(axes.figure).draw()
            assert axes.get_position().width > 0.3
    short, long = (text.get_text() for text in one.texts)
    assert (long[:3], long[-3:], short) == ("mmm", "0.1", "short")


def boxes_of(figure: Figure) -> list[Any]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return [text.get_window_extent(canvas.get_renderer()) for axes in figure.axes for text in axes.texts]


def test_a_name_inside_the_axes_covers_no_line() -> None:
    """The line of `a` ends in the middle, with the line of `b` to its right and below."""
    figure = Figure(figsize=(3.25, 2.3), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="red")
    axes.plot([0, 1, 3], [0, 0.9, 1.0], color="blue")
    figures._label_inside(axes, {"a": (1.0, 1.0, "red")})
    (box,) = boxes_of(figure)
    assert box.count_contains(figures._drawn_points(axes)) == 0


def test_strength_is_on_a_logarithmic_axis_with_bands(found: Collected) -> None:
    (axes,) = strength(found, "exact/kl").axes
    assert axes.get_xscale() == "log"
    assert len(axes.collections) == 2
    frame = metric_frame(found, "exact/kl")
    band = axes.collections[0].get_paths()[0].vertices
    assert np.asarray(band)[:, 1].max() == pytest.approx(frame[frame["line"] == "dpo"]["high"].max())


def test_losses_of_two_objectives_have_their_own_axes(found: Collected) -> None:
    assert len(strength(found, "eval/loss").axes) == 2
    assert len(curves(found, "train/loss").axes) == 2
    assert len(curves(found).axes) == 1
    assert curves(found).axes[0].get_ylabel() == "log-ratio margin (nats)"


def test_several_curves_are_below_each_other(found: Collected) -> None:
    figure = curves(found, "train/loss,train/logratios/margins")
    assert [axes.get_ylabel() for axes in figure.axes] == ["training loss"] * 2 + ["log-ratio margin (nats)"]
    with pytest.raises(DataError, match="no finished run has train/nope; the runs have: train/loss"):
        curves(found, "train/loss,train/nope")


def test_the_forest_has_a_row_for_each_setting(found: Collected) -> None:
    (axes,) = forest(found).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dpo 0.1", "dpo 1", "ipo 0.1", "ipo 1"]
    assert axes.get_xlabel() == "win-rate by gold against reference"
    frame = winrates_frame(found)
    bars = [container.lines[2][0].get_segments()[0] for container in axes.containers]
    assert np.asarray(bars)[:, :, 0] == pytest.approx(frame[["low", "high"]].to_numpy())


def with_gaps(found: Collected) -> None:
    """The parts of each run's gap, as `alignlab plot gap` stores them: 0.3, -0.1 and 0.2."""
    parts = {"population optimum": 0.3, "finite data": -0.1, "optimisation": 0.2}
    for point in found.done:
        write_sealed(found.run(point).gap, {"parts": parts, "unbounded": []})


def test_negative_parts_of_the_gap_extend_to_the_left(found: Collected) -> None:
    with_gaps(found)
    (axes,) = gap(found).axes
    bars = {(round(bar.get_x(), 9), round(bar.get_width(), 9)) for bar in axes.patches}
    assert bars == {(0.0, 0.3), (0.0, -0.1), (0.3, 0.2)}
    assert len(axes.patches) == 3 * len(axes.get_yticklabels()) == 12


@pytest.mark.parametrize("kind", FIGURES)
def test_files_have_the_width_of_a_column_and_embedded_fonts(kind: str, found: Collected, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    with_gaps(found)
    figure = FIGURES[kind](found)  # type: ignore[operator]
    assert figure.get_figwidth() == 3.25
    content = save(figure, tmp_path / f"{kind}.pdf").read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    assert save(figure, tmp_path / f"{kind}.svg").read_text().lstrip().startswith("<?xml")
    assert save(figure, tmp_path / f"{kind}.png", "screen").stat().st_size > 5000
    assert dict(mpl.rcParams) == before, "the settings of the user's other figures stay"


def test_what_cannot_be_drawn_is_said(tmp_path: Path, found: Collected) -> None:
    bare = read_sweep(write(tmp_path, judged=False))
    with pytest.raises(DataError, match="no finished run has a win-rate: `alignlab evaluate`"):
        forest(bare)
    nothing = replace(bare, points=[], records={})
    with pytest.raises(DataError, match="no finished run has a KL and a reward: `alignlab evaluate` with judge=gold"):
        frontier(nothing)
    with pytest.raises(DataError, match="no finished run has a curve"):
        curves(nothing)
    with pytest.raises(DataError, match="no finished run has eval/nope; the runs have: eval/loss"):
        strength(found, "eval/nope")


def test_the_table_for_latex(found: Collected) -> None:
    text = latex(paper_tables(found))
    lines = text.splitlines()
    rows = [line for line in lines if line.startswith(("dpo", "ipo"))]
    assert len(rows) == 4
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)
    assert columns
    assert all(row.count("&") == len(columns[1]) - 1 and row.endswith(r"\\") for row in rows)
    gap = metric_frame(found, "exact/frontier_gap").iloc[0]
    assert f"{gap['value']:.3f} $\\pm$ {gap['high'] - gap['value']:.3f}" in rows[0]
    assert [line for line in lines if "rule" in line] == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert escaped(r"a_b & 5% #1 \x {-0.5} x-1 ~^$") == (
        r"a\_b \& 5\% \#1 \textbackslash{}x \{$-$0.5\} x-1 \textasciitilde{}\textasciicircum{}\$"
    )


def test_the_csv_has_all_digits(found: Collected) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(paper_tables(found)))))
    frame = metric_frame(found, "exact/frontier_gap")
    assert [float(row["gap"]) for row in rows] == frame["value"].tolist()
    assert [float(row["gap high"]) for row in rows] == pytest.approx(frame["high"].tolist(), abs=1e-15)


def test_the_strengths_of_a_single_line_stand_beside_its_points(found: Collected) -> None:
    of_dpo = replace(found, points=[point for point in found.points if point["objective"] == "dpo"])
    texts = {text.get_text() for text in frontier(of_dpo).axes[0].texts}
    assert {"strength 0.1", "strength 1"} <= texts
    assert not {"strength 0.1", "strength 1"} & {text.get_text() for text in frontier(found).axes[0].texts}


def test_a_style_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match="must be one of paper, screen"), figures.styled("big"):
        pass
