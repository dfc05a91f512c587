"""Figures of a sweep for a paper: a `Collected` in, a matplotlib figure out. Imports no torch, so notebooks can use it:

    from alignlab.reports.collect import read_sweep
    from alignlab.reports.figures import frontier, save
    save(frontier(read_sweep("outputs/sweeps/dpo_beta-7c897c")), "frontier.pdf")

Each line (such as an objective) has one colour, of Okabe and Ito's palette for every kind of colour vision, and its own
marker. From the eighth on, lines are dashed. Lines are labelled where they end. Bands are 95 % t intervals over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from alignlab.errors import ConfigError, DataError, Problem
from alignlab.inert import one_line
from alignlab.integrity import new_file
from alignlab.reports import series
from alignlab.reports.collect import Collected
from alignlab.reports.curves import CURVES
from alignlab.statistics.intervals import Array

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#6b6b6b")
_MARKERS, _DASHES = "osD^vP*", ("-", "--", ":", "-.")
STYLES = ("paper", "screen")

# Width of a column of two-column papers (inches), and of a figure on a screen.
_WIDTH = {"paper": 3.25, "screen": 7.0}
_COMMON = {
    "pdf.fonttype": 42,  # TrueType: text stays text, and conferences accept it
    "svg.hashsalt": "alignlab",
    "svg.fonttype": "path",  # looks the same without the font
    "text.usetex": False,
    "text.parse_math": False,  # names of runs are no formulas
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "grid.linewidth": 0.5,
    "legend.frameon": False, "axes.axisbelow": True,
}  # fmt: skip
_RC: dict[str, dict[str, Any]] = {
    "paper": {**_COMMON, "font.size": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
              "lines.linewidth": 1.1, "lines.markersize": 3.5, "axes.linewidth": 0.6},
    "screen": {**_COMMON, "font.size": 11, "lines.linewidth": 1.6, "lines.markersize": 6, "savefig.dpi": 150},
}  # fmt: skip

# Curves and metrics that are drawn if none is named: the first that the runs have.
_CURVES = ("train/logratios/margins", "train/objective/scores", "train/loss")
_METRICS = ("exact/frontier_gap", "exact/kl", series.SAMPLED_KL, "eval/pairs/accuracy", "eval/loss")


def frontier(found: Collected, style: str = "paper") -> Figure:
    """Reward against KL of each setting, and the exact frontier if there is one.

    Raises DataError if no finished run has both.
    """
    frame = _some(series.frontier_frame(found), found, "has a KL and a reward")
    points, (curves, _) = series.frontier_points(found), series.exact_frontiers(found)
    exact = frame["kind"].iloc[0] == "exact"
    with styled(style):
        figure, (axes,) = _panels(style, 1)
        reach, rewards = 1.12 * max(0.5, points["kl"].max()), points["reward"].tolist()
        for curve in curves if exact else ():
            axes.plot(curve["kl"], curve["reward"], color="black", lw=1)
            rewards += [r for kl, r in zip(curve["kl"], curve["reward"], strict=True) if kl <= reach]
        start = series.start_reward(found)
        if start is not None:
            rewards.append(start)
            axes.plot(0.0, start, "D", color="black", zorder=3)
            axes.annotate("start", (0.0, start), (5, -3), textcoords="offset points", fontsize=_small())
        _limits(axes, rewards, 0.06)
        axes.set_xlim(min(0.0, points["kl"].min()) - 0.02 * reach, reach)
        ends: dict[str, tuple[float, float, str]] = {}
        inner: dict[str, tuple[float, float, str]] = {}
        for place, (line, rows) in _lines(found, frame):
            at = points[points["line"] == line]
            if len(points) > len(frame):
                axes.plot(at["kl"], at["reward"], marker(place), color=_colour(place), ms=2, alpha=0.4, mew=0)
            axes.errorbar(
                rows["kl"], rows["reward"], yerr=_bars(rows, "reward"), xerr=_bars(rows, "kl"), color=_colour(place),
                ls=_dash(place), marker=marker(place), elinewidth=0.6, capsize=0,
            )  # fmt: skip
            last = rows.iloc[int(rows["kl"].to_numpy().argmax())]
            if frame["line"].nunique() == 1 and rows["strength"].notna().any():
                inner |= _strengths(rows, found.strength, _colour(place))
            elif last["kl"] > 0.7 * reach:
                ends[line] = (last["kl"], last["reward"], _colour(place))
            elif frame["line"].nunique() > 1:  # far from the right edge: the name stands at the end of the line
                inner[line] = (last["kl"], last["reward"], _colour(place))
        if exact and curves:
            kl, reward = _inside(curves[0], reach)
            ends["exact frontier"] = (kl, reward, "black")
        axes.set_xlabel("KL (nats per answer)")
        axes.set_ylabel("expected reward" if exact else one_line(series.reward_heading(frame["kind"].iloc[0])))
        _label_ends(axes, ends)
        _label_inside(axes, inner)
    return figure


def _strengths(rows: pd.DataFrame, axis: str | None, colour: str) -> dict[str, tuple[float, float, str]]:
    """Names of the points of the only line, by their strengths."""
    known = rows.dropna(subset=["strength"])
    names = [f"{str(axis).rpartition('.')[2]} {strength:g}" for strength in known["strength"]]
    return {name: (kl, reward, colour) for name, kl, reward in zip(names, known["kl"], known["reward"], strict=True)}


def strength(found: Collected, metric: str = "", style: str = "paper") -> Figure:
    """A metric of the summary against the strength, one line for each method, with bands over seeds.

    metric: empty for the first of the gap, the KL, and the accuracy on held-out pairs that the runs have.
    Raises DataError if no axis has several numeric values, or if no finished run has the metric.
    """
    axis = found.strength
    if axis is None:
        raise DataError(f"{found.name}: no axis has several numeric values, so there is no strength to draw against")
    known = series.strength_metrics(found)
    metric = _chosen(metric, known, _METRICS, found)
    frame = _some(series.metric_frame(found, metric), found, f"has {metric}")
    with styled(style):
        lines = list(_lines(found, frame))
        figure, all_axes = _panels(style, len(lines) if _apart(metric, lines) else 1)
        for axes, group in zip(all_axes, _in_panels(lines, len(all_axes)), strict=True):
            ends = {}
            for place, (line, rows) in group:
                rows = rows.sort_values("strength")
                band = rows.dropna(subset=["low", "high"])
                axes.fill_between(band["strength"], band["low"], band["high"], color=_colour(place), alpha=0.15, lw=0)
                axes.plot(rows["strength"], rows["value"], _dash(place), marker=marker(place), color=_colour(place))
                ends[line] = (rows["strength"].iloc[-1], rows["value"].iloc[-1], _colour(place))
            values = pd.concat([rows for _, (_, rows) in group])
            _limits(axes, [*values["value"], *_near(values)], 0.06)
            _strength_scale(axes, values["strength"])
            axes.set_ylabel(series.heading(metric))
            _label_ends(axes, ends)
        all_axes[-1].set_xlabel(one_line(axis.rpartition(".")[2]))
    return figure


def curves(found: Collected, metric: str = "", style: str = "paper") -> Figure:
    """Training curves of each setting: mean over seeds, with bands. Settings of one method share their colour.

    metric: one curve, or several with commas between them, which are drawn below each other. Empty: the log-ratio
    margin, or the first other curve that the runs have. Losses of different methods have different scales, so each
    method has axes of its own.
    Raises DataError if no finished run has a curve.
    """
    frame = series.curves_frame(found, metric.split(",") if metric else _CURVES)
    known = list(frame["metric"].unique())
    metrics = [_chosen(name, known, _CURVES, found) for name in (metric.split(",") if metric else [""])]
    frame = _some(frame, found, f"has the curve {metrics[0]}")
    with styled(style):
        panels = []
        for name in metrics:
            lines = list(_lines(found, frame[frame["metric"] == name]))
            panels += [(name, group) for group in ([[line] for line in lines] if _apart(name, lines) else [lines])]
        figure, all_axes = _panels(style, len(panels))
        bands = frame["setting"].nunique() <= series.MOST_BANDS
        for axes, (name, group) in zip(all_axes, panels, strict=True):
            _draw_curves(axes, group, bands=bands)
            axes.set_ylabel(CURVES.get(name, name))
        all_axes[-1].set_xlabel("update")
    return figure


def _draw_curves(axes: Axes, lines: Sequence[tuple[int, tuple[str, pd.DataFrame]]], *, bands: bool) -> None:
    """Draw the curves of some methods, with bands over seeds if wanted."""
    ends = {}
    for place, (line, rows) in lines:
        settings = list(rows.groupby("setting", sort=False))
        for number, (_, curve) in enumerate(settings):
            shade = 1 - 0.55 * number / max(1, len(settings) - 1)
            band = curve.dropna(subset=["low", "high"])
            if bands:
                axes.fill_between(band["step"], band["low"], band["high"], color=_colour(place), alpha=0.12, lw=0)
            axes.plot(curve["step"], curve["value"], _dash(place), color=_colour(place), alpha=shade)
            name = _short(line, curve["strength"].iloc[0]) if len(settings) > 1 else line
            ends[name] = (curve["step"].iloc[-1], curve["value"].iloc[-1], _colour(place))
    _limits(axes, pd.concat([rows for _, (_, rows) in lines])["value"], 0.1)
    _label_ends(axes, ends)


def forest(found: Collected, style: str = "paper") -> Figure:
    """Win-rates with intervals over seeds and prompts: one row for each setting, judge, baseline and file of prompts.

    Raises DataError if nothing judged the runs.
    """
    frame = _some(series.winrates_frame(found), found, "has a win-rate: `alignlab evaluate` with judge= gives one")
    groups = [rows for _, rows in frame.groupby(list(series.Compared._fields), sort=False)]
    with styled(style):
        size = 0.14 if style == "paper" else 0.24
        heights = [len(rows) + 1 for rows in groups]
        figure = Figure(figsize=(_WIDTH[style], 0.3 + 0.2 * len(groups) + size * sum(heights)), layout="constrained")
        ratios = {"height_ratios": heights}
        all_axes = figure.subplots(len(groups), 1, squeeze=False, sharex=True, gridspec_kw=ratios)[:, 0]
        for axes, rows in zip(all_axes, groups, strict=True):
            _draw_win_rates(axes, rows, _places(found))
            about = one_line(f"win-rate by {_versus(dict(rows.iloc[0]))}")
            if len(groups) == 1:
                axes.set_xlabel(about)
            else:
                axes.set_title(about, loc="left", fontsize=mpl.rcParams["font.size"])
        if len(groups) > 1:
            all_axes[-1].set_xlabel("win-rate")
    return figure


def _draw_win_rates(axes: Axes, rows: pd.DataFrame, places: Mapping[str, int]) -> None:
    """Draw the win-rates of settings by one judge against one baseline, the first at the top."""
    for row, (_, one) in enumerate(rows.iterrows()):
        place = places[one["line"]]
        axes.errorbar(
            one["value"], -row, xerr=_bars(rows.iloc[[row]], "value"), color=_colour(place), marker=marker(place),
            elinewidth=0.8, ls="none",
        )  # fmt: skip
    names = [_fitting(axes, _short(line, at)) for line, at in zip(rows["line"], rows["strength"], strict=True)]
    axes.set_yticks([-row for row in range(len(names))], names)
    axes.set_ylim(-len(names) + 0.3, 0.7)
    axes.axvline(0.5, color="black", lw=0.6, ls=":")
    axes.set_xlim(0, 1)
    axes.grid(axis="y", visible=False)


def _versus(row: Mapping[str, Any]) -> str:
    """What a win-rate is about: the judge, the baseline, and the file of prompts if there is one."""
    against = f" against {row['baseline']}" if row["baseline"] else ""
    asked = f", {row['file']}" if row["file"] else ""
    return f"{row['judge']}{against}{asked}"


def _short(line: str, strength: float) -> str:
    """The name of a setting: its line and its strength."""
    return line if math.isnan(strength) else f"{line} {strength:g}"


def run_curves(rows: Sequence[Mapping[str, float]], metrics: Mapping[str, str], style: str = "screen") -> Figure:
    """Curves of one run, one below the other: logged values in a light line, their running mean in a strong one.

    rows:    of metrics.jsonl, with `train/global_step`.
    metrics: metric -> its name.
    """
    table = pd.DataFrame(rows)
    with styled(style):
        figure, all_axes = _panels(style, len(metrics))
        for axes, (metric, name) in zip(all_axes, metrics.items(), strict=True):
            curve = table[["train/global_step", metric]].dropna()
            mean = curve[metric].rolling(max(1, len(curve) // 20), min_periods=1).mean()
            axes.plot(curve["train/global_step"], curve[metric], color=_colour(0), alpha=0.3)
            axes.plot(curve["train/global_step"], mean, color=_colour(0))
            axes.set_ylabel(name)
        all_axes[-1].set_xlabel("update")
    return figure


def run_path(
    curve: Mapping[str, Sequence[float]], rows: Sequence[Mapping[str, float]], style: str = "screen"
) -> Figure:
    """How exact reward and exact KL (nats per answer) of one run moved during training, below the exact frontier.

    curve: the frontier, with `kl` and `reward`.
    rows:  evaluations of the run, with `train/global_step`, `exact/kl` and `exact/reward`.
    """
    steps, kl, reward = ([row[name] for row in rows] for name in ("train/global_step", "exact/kl", "exact/reward"))
    reach = 1.12 * max([0.5, *kl])
    with styled(style):
        figure, (axes,) = _panels(style, 1)
        axes.plot(curve["kl"], curve["reward"], color="black")
        axes.plot(curve["kl"][0], curve["reward"][0], "D", color="black")
        axes.annotate("start", (curve["kl"][0], curve["reward"][0]), (6, -3), textcoords="offset points")
        axes.plot(kl, reward, color=COLOURS[-1], lw=0.8, zorder=1)
        figure.colorbar(axes.scatter(kl, reward, c=steps, cmap="viridis", zorder=3), label="update")
        best = [height for x, height in zip(curve["kl"], curve["reward"], strict=True) if x <= reach]
        _limits(axes, [*best, *reward], 0.08)
        axes.set_xlim(-0.02 * reach, reach)
        axes.set_xlabel("KL (nats per answer)")
        axes.set_ylabel("expected reward")
        _label_ends(axes, {"exact frontier": (*_inside(curve, reach), "black")})
    return figure


def gap(found: Collected, style: str = "paper") -> Figure:
    """The parts of the gap to the frontier, stacked, one bar for each setting. Negative parts extend to the left.

    Raises DataError if no run has them.
    """
    frame = _some(series.gap_frame(found), found, "has the parts of its gap")
    settings = list(dict.fromkeys(frame["setting"]))
    with styled(style):
        size = 0.2 if style == "paper" else 0.34
        figure = Figure(figsize=(_WIDTH[style], 0.9 + size * len(settings)), layout="constrained")
        axes = figure.add_subplot()
        ends = {setting: [0.0, 0.0] for setting in settings}  # of the negative and of the positive parts
        for place, (part, rows) in enumerate(frame.groupby("part", sort=False)):
            for _, row in rows.iterrows():
                side = int(row["value"] >= 0)
                start = ends[row["setting"]][side]
                axes.barh(
                    -settings.index(row["setting"]), row["value"], left=start, height=0.7, color=_colour(place),
                    label=str(part) if row["setting"] == rows["setting"].iloc[0] else None,
                )  # fmt: skip
                ends[row["setting"]][side] += row["value"]
        axes.set_yticks([-i for i in range(len(settings))], [_fitting(axes, name) for name in settings])
        axes.axvline(0, color="black", lw=0.6)
        axes.set_xlabel("gap to the frontier (reward)")
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside lower center", ncols=2, fontsize=mpl.rcParams["xtick.labelsize"])
    return figure


FIGURES = {"gap": gap, "frontier": frontier, "curves": curves, "strength": strength, "forest": forest}


def save(figure: Figure, file: str | Path, style: str = "paper") -> Path:
    """Write a figure as .pdf, .svg or .png, by the name of the file, whole or not at all. Fonts are embedded."""
    file = Path(file)
    kind = file.suffix.removeprefix(".").lower()
    undated: dict[str, Any] = (
        {"metadata": {"Date": None}} if kind == "svg" else {}
    )  # the same figure gives the same file
    with styled(style), new_file(file) as scratch:
        figure.savefig(scratch, format=kind, **undated)
    return file


@contextmanager
def styled(style: str) -> Iterator[None]:
    if style not in STYLES:
        problem = Problem("style", style, f"must be one of {', '.join(STYLES)}", f'style="{next(iter(STYLES))}"')
        raise ConfigError([problem], where="this command; nothing was done")
    settings: Any = _RC[style]
    with mpl.rc_context(settings):
        yield


def _panels(style: str, count: int) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes, one below the other."""
    width = _WIDTH[style]
    figure = Figure(figsize=(width, width * (0.72 if count == 1 else 0.45 * count)), layout="constrained")
    return figure, list(figure.subplots(count, 1, squeeze=False, sharex=count > 1)[:, 0])


def _some(frame: pd.DataFrame, found: Collected, what: str) -> pd.DataFrame:
    if frame.empty:
        raise DataError(f"{found.name}: no finished run {what}")
    return frame


def _chosen(metric: str, known: Sequence[str], order: Sequence[str], found: Collected) -> str:
    """The wanted metric, or the first known one. Raises DataError if no run has the metric."""
    if metric and metric not in known:
        raise DataError(f"{found.name}: no finished run has {metric}; the runs have: {', '.join(known) or 'none'}")
    return metric or next((name for name in order if name in known), known[0] if known else "")


def _places(found: Collected) -> dict[str, int]:
    """Line -> its number, which decides its colour, marker and dashes in all figures of a sweep."""
    return {line: i for i, line in enumerate(dict.fromkeys(found.line(point) for point in found.points))}


def _lines(found: Collected, frame: pd.DataFrame) -> Iterator[tuple[int, tuple[str, pd.DataFrame]]]:
    places = _places(found)
    for line, rows in frame.groupby("line", sort=False):
        rows = rows if "metric" in rows else rows.sort_values("strength", kind="stable")
        yield places[str(line)], (str(line), rows)


def _in_panels(lines: list[Any], panels: int) -> list[list[Any]]:
    return [[line] for line in lines] if panels == len(lines) else [lines]


def _apart(metric: str, lines: Sequence[object]) -> bool:
    """Whether each line needs axes of its own: losses of different methods have different scales."""
    return metric.endswith("/loss") and len(lines) > 1


def _fitting(axes: Axes, name: str) -> str:
    """A name on one line. Of a name that is wider than two fifths of the figure, only both ends are left."""
    shown = one_line(name, 1_000)
    figure = axes.get_figure(root=True)
    assert figure is not None
    width = TextPath((0, 0), shown, size=_small()).get_extents().width  # points
    most = int(len(shown) * 0.4 * figure.get_figwidth() * 72 / width) if width else len(shown)
    return shown if len(shown) <= most else f"{shown[: most // 2]}...{shown[3 - most // 2 :]}"


def _small() -> float:
    """Size of the text of labels (points)."""
    return float(mpl.rcParams["font.size"]) - 1


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def marker(place: int) -> str:
    return _MARKERS[(place + place // len(COLOURS)) % len(_MARKERS)]


def _dash(place: int) -> str:
    return _DASHES[place // len(COLOURS) % len(_DASHES)]


def _bars(rows: pd.DataFrame, name: str) -> list[list[float]]:
    """[2][rows] distances of the ends of an interval from its value; 0 where there is no interval."""
    low, high = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
    below, above = (rows[name] - rows[low]).clip(lower=0), (rows[high] - rows[name]).clip(lower=0)
    return [below.fillna(0).tolist(), above.fillna(0).tolist()]


def _near(rows: pd.DataFrame) -> list[float]:
    """Ends of intervals, no farther from the values than half of their range: two seeds have very wide ones."""
    reach = 0.5 * (rows["value"].max() - rows["value"].min()) or abs(rows["value"].max()) * 0.1 or 1.0
    low, high = rows["value"].min() - reach, rows["value"].max() + reach
    return [min(max(value, low), high) for value in [*rows["low"].dropna(), *rows["high"].dropna()]]


def _limits(axes: Axes, values: Any, room: float) -> None:
    low, high = min(values), max(values)
    spread = (high - low) or abs(high) or 1.0
    axes.set_ylim(low - room * spread, high + room * spread)


def _strength_scale(axes: Axes, values: pd.Series) -> None:
    """A logarithmic axis for strengths of several magnitudes; a tick at each strength if there are few."""
    ticks = sorted(set(values))
    if ticks[0] > 0 and ticks[-1] / ticks[0] > 4:
        axes.set_xscale("log")
    if len(ticks) < 8:
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()


def _inside(curve: Mapping[str, Sequence[float]], reach: float) -> tuple[float, float]:
    """The last point of a curve that is inside the axes."""
    return next(
        ((kl, r) for kl, r in zip(reversed(curve["kl"]), reversed(curve["reward"]), strict=True) if kl <= reach),
        (curve["kl"][0], curve["reward"][0]),
    )


def _label_ends(axes: Axes, ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Write the name of each line beside the right edge at the height of its end, moved apart where they overlap."""
    if not ends:
        return
    low, high = axes.get_ylim()
    height = axes.get_window_extent().height / axes.figure.dpi * 72  # points
    gap = (high - low) * mpl.rcParams["font.size"] * 1.1 / height
    ordered = sorted(ends.items(), key=lambda end: end[1][1])
    places = [min(max(y, low), high) for _, (_, y, _) in ordered]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    places[-1] = min(places[-1], high)
    for i in range(len(places) - 2, -1, -1):
        places[i] = min(places[i], places[i + 1] - gap)
    for (name, (_, _, colour)), place in zip(ordered, places, strict=True):
        axes.annotate(
            _fitting(axes, name), (1.0, place), (3, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            color=colour, va="center", fontsize=_small(), annotation_clip=False,
        )  # fmt: skip


# Places of a name beside a point: offsets (points), and the sides of the text that are there.
_BESIDE: tuple[tuple[int, int, str, str], ...] = (
    (5, -3, "left", "top"), (5, 3, "left", "bottom"), (-5, 3, "right", "bottom"), (-5, -3, "right", "top"),
    (0, 6, "center", "bottom"), (0, -6, "center", "top"),
)  # fmt: skip


def _label_inside(axes: Axes, ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Write the name of each line beside its end, where it covers as little as possible of what is drawn."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # the layout decides where things are
    renderer = canvas.get_renderer()
    taken = _drawn_points(axes)
    for name, (x, y, colour) in ends.items():
        best, fewest = None, math.inf
        for across, up, side, above in _BESIDE:
            text = axes.annotate(
                _fitting(axes, name), (x, y), (across, up), textcoords="offset points", color=colour, ha=side, va=above,
                fontsize=_small(),
            )  # fmt: skip
            box = text.get_window_extent(renderer)
            covered = box.count_contains(taken)
            if covered < fewest:
                if best is not None:
                    best.remove()
                best, fewest = text, covered
            else:
                text.remove()
        assert best is not None
        box = best.get_window_extent(renderer)
        grid = np.meshgrid(np.linspace(box.x0, box.x1, 20), np.linspace(box.y0, box.y1, 10))
        taken = np.concatenate([taken, np.stack([part.ravel() for part in grid], axis=1)])


def _drawn_points(axes: Axes) -> Array:
    """[n, 2] points on all lines and bars of some axes (pixels), a few pixels apart."""
    bars = [segment for bar in axes.collections if isinstance(bar, LineCollection) for segment in bar.get_segments()]
    found = []
    for line in [*(np.asarray(one.get_xydata(), dtype=float) for one in axes.lines), *map(np.asarray, bars)]:
        at = axes.transData.transform(line)
        found += [np.linspace(a, b, 50) for a, b in pairwise(at)] or [at]
    return np.concatenate(found) if found else np.empty((0, 2))
