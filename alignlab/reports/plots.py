"""Figures of a sweep, from files of its runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from alignlab.statistics.intervals import mean_interval, normal_quantile

CURVES = (
    ("train/loss", "training loss (nats)"),
    ("train/logratios/margins", "log-ratio margin (nats)"),
    ("train/rewards/accuracies", "training accuracy"),
    ("train/logratios/chosen", "chosen log-ratio (nats)"),
)


# With more points than this, the legend is beside the axes and markers have several shapes: colours are not enough.
_MANY = 6
_MARKERS = "osD^vP*X"


def frontier_figure(
    file: Path, curves: Sequence[Mapping[str, Sequence[float]]], points: Sequence[Mapping[str, Any]], title: str
) -> None:
    """Draw expected gold reward against KL (nats): the exact frontier, and each run with its gap to the frontier.

    Runs with the same label are the seeds of one setting. They are drawn small, with their mean and 95 % t intervals.

    curves: one frontier for each reference, with `kl` and `reward`.
    points: mappings with `label`, `exact/kl`, `exact/reward`, `exact/frontier_reward`.
    """
    groups = _by_label(points, [str(point["label"]) for point in points])
    many = len(groups) > _MANY
    figure, axes = plt.subplots(figsize=(10.2 if many else 7.2, 5.6 if many else 4.6), layout="constrained")
    for i, curve in enumerate(curves):
        line, start = ("exact frontier", "reference") if i == 0 else (None, None)
        axes.plot(curve["kl"], curve["reward"], color="black", lw=1.6, zorder=1, label=line)
        axes.plot(curve["kl"][0], curve["reward"][0], "D", color="black", ms=5, zorder=2, label=start)
    colours = mpl.colormaps["viridis"]
    for i, (label, group) in enumerate(groups.items()):
        colour, marker = colours(i / max(1, len(groups) - 1) * 0.9), _MARKERS[i % len(_MARKERS)] if many else "o"
        kl, reward, best = (
            mean_interval([point[f"exact/{name}"] for point in group]) for name in ("kl", "reward", "frontier_reward")
        )
        axes.vlines(kl.value, reward.value, best.value, color=colour, lw=1, linestyles="dotted")
        if len(group) > 1:
            every = ([point["exact/kl"] for point in group], [point["exact/reward"] for point in group])
            axes.plot(*every, marker, color=colour, ms=4, alpha=0.5, mew=0, zorder=2)
            axes.errorbar(kl.value, reward.value, reward.half, kl.half, color=colour, lw=1, capsize=2, zorder=3)
        axes.plot(kl.value, reward.value, marker, color=colour, ms=8, zorder=3, label=label)
    axes.set(
        xlabel="exact KL(policy ‖ reference), nats per sequence",
        ylabel="exact expected gold reward",
        title=title,
        xlim=(-0.1, 1.12 * max([0.5, *(p["exact/kl"] for p in points)])),
    )
    axes.grid(alpha=0.25)
    if many:
        figure.legend(loc="outside right upper", fontsize=8)
    else:
        axes.legend(loc="lower right", fontsize=9)
    _save(figure, file)


def sampled_figure(
    file: Path, points: Sequence[Mapping[str, Any]], title: str, *, kl: str, reward: str, start: str, name: str
) -> None:
    """Draw the reward of sampled answers against their KL (nats), with 95 % intervals in both directions.

    Runs with the same label are the seeds of one setting: intervals are over seeds. The interval of a single run is
    over prompts, if its standard errors are known.

    points:            mappings with `label` and metrics.
    kl, reward, start: metrics of the KL, the reward, and the reward of the start, which may be missing.
    name:              of the reward.
    """
    groups = _by_label(points, [str(point["label"]) for point in points])
    many = len(groups) > _MANY
    figure, axes = plt.subplots(figsize=(10.2 if many else 7.2, 5.6 if many else 4.6), layout="constrained")
    if starts := [point[start] for point in points if start in point]:
        axes.plot(0, sum(starts) / len(starts), "D", color="black", ms=5, label="reference")
    colours = mpl.colormaps["viridis"]
    for i, (label, group) in enumerate(groups.items()):
        colour, marker = colours(i / max(1, len(groups) - 1) * 0.9), _MARKERS[i % len(_MARKERS)] if many else "o"
        (x, x_half), (y, y_half) = (_with_error(group, metric) for metric in (kl, reward))
        if len(group) > 1:
            every = ([point[kl] for point in group], [point[reward] for point in group])
            axes.plot(*every, marker, color=colour, ms=4, alpha=0.5, mew=0, zorder=2)
        axes.errorbar(x, y, y_half, x_half, fmt=marker, color=colour, ms=8, lw=1, capsize=2, zorder=3, label=label)
    axes.set(xlabel="sampled KL(policy ‖ reference), nats per answer", ylabel=name, title=title)
    axes.grid(alpha=0.25)
    if many:
        figure.legend(loc="outside right upper", fontsize=8)
    else:
        axes.legend(loc="best", fontsize=9)
    _save(figure, file)


def _with_error(group: Sequence[Mapping[str, Any]], metric: str) -> tuple[float, float | None]:
    """(mean, half of its 95 % interval) over seeds, or over the prompts of a single run; None if it is not known."""
    interval = mean_interval([point[metric] for point in group])
    if len(group) > 1:
        return interval.value, interval.half
    error = group[0].get(metric.removesuffix("/mean") + "/se")
    return interval.value, None if error is None else normal_quantile(0.95) * error


def path_figure(file: Path, curve: Mapping[str, Sequence[float]], rows: Sequence[Mapping[str, float]]) -> None:
    """Draw how the exact reward and the exact KL (nats) of one run moved during training, below the exact frontier.

    curve: the frontier, with `kl` and `reward`.
    rows:  the evaluations of the run, with `train/global_step`, `exact/kl`, `exact/reward`.
    """
    figure, axes = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    axes.plot(curve["kl"], curve["reward"], color="black", lw=1.6, label="exact frontier")
    axes.plot(curve["kl"][0], curve["reward"][0], "D", color="black", ms=5, label="reference")
    kl, reward = ([row[name] for row in rows] for name in ("exact/kl", "exact/reward"))
    axes.plot(kl, reward, color="grey", lw=0.8, zorder=1)
    steps = [row["train/global_step"] for row in rows]
    dots = axes.scatter(kl, reward, c=steps, cmap="viridis", zorder=3)
    figure.colorbar(dots, label="update")
    reach = 1.12 * max([0.5, *kl])
    best = [height for x, height in zip(curve["kl"], curve["reward"], strict=True) if x <= reach]
    low, high = min([*best, *reward]), max([*best, *reward])
    axes.set(
        xlabel="exact KL(policy ‖ reference), nats per sequence",
        ylabel="exact expected gold reward",
        xlim=(-0.1, reach),
        ylim=(low - 0.05 * (high - low), high + 0.1 * (high - low)),
    )
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=9)
    _save(figure, file)


def curves_figure(
    file: Path,
    runs: Sequence[tuple[str, Sequence[Mapping[str, float]]]],
    title: str,
    curves: Sequence[tuple[str, str]] = CURVES,
) -> None:
    """Draw training curves: logged values in light lines, running means over a twentieth of the run in strong lines.

    Runs with the same label are the seeds of one setting. Their running means are light lines, and the mean of these is
    a strong line.

    runs:   (label, rows of metrics.jsonl).
    curves: (metric, its name); metrics that no run has are left out.
    """
    groups = _by_label([rows for _, rows in runs], [label for label, _ in runs])
    present = [(m, name) for m, name in curves if any(m in row for _, rows in runs for row in rows)]
    columns = 2 if len(present) > 1 else 1
    height = (len(present) + columns - 1) // columns
    figure, grid = plt.subplots(
        height, columns, figsize=(4.6 * columns, 3.1 * height), layout="constrained", squeeze=False
    )
    colours = mpl.colormaps["viridis"]
    cells: list[Axes] = list(grid.flat)
    for axes, (metric, name) in zip(cells, present, strict=False):
        for i, (label, group) in enumerate(groups.items()):
            colour = colours(i / max(1, len(groups) - 1) * 0.9)
            logged = [pd.Series({r["train/global_step"]: r[metric] for r in rows if metric in r}) for rows in group]
            smooth = [values.rolling(max(1, len(values) // 20), min_periods=1).mean() for values in logged]
            for values in logged if len(group) == 1 else smooth:
                axes.plot(values.index, values, color=colour, lw=0.6, alpha=0.25)
            mean = pd.concat(smooth, axis=1).mean(axis=1)
            axes.plot(mean.index, mean, color=colour, label=label)
        axes.set(xlabel="update", ylabel=name)
        axes.grid(alpha=0.25)
    for axes in cells[len(present) :]:
        axes.set_axis_off()
    if len(groups) > _MANY:
        figure.legend(*cells[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    else:
        cells[0].legend(fontsize=8)
    figure.suptitle(title)
    _save(figure, file)


def _by_label(items: Sequence[Any], labels: Sequence[str]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for item, label in zip(items, labels, strict=True):
        groups.setdefault(label, []).append(item)
    return groups


def _save(figure: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    plt.close(figure)
