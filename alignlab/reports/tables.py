"""Runs as rows of a table: the metrics that are shown, their headings and digits."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignlab.inert import MOST, formula_free, one_line
from alignlab.statistics.comparison import label
from alignlab.tracking.metrics import CHOOSES, CHOSEN

if TYPE_CHECKING:
    import pandas as pd

# A bar that begins another cell, and the beginning of a tag or a comment of HTML, unless it is escaped.
_ENDS_A_CELL = re.compile(r"(?<!\\)\||<(?=[A-Za-z/!?])")

# metric -> (heading, format); a column is shown if at least one run has the metric
COLUMNS = {
    "start/loss": ("loss at start", ".4f"),
    "eval/loss": ("eval loss", ".4f"),
    "eval/rewards/margins": ("eval margin", ".3f"),
    "eval/rewards/accuracies": ("eval accuracy", ".3f"),
    "eval/pairs/accuracy": ("held-out pair accuracy", ".3f"),
    "eval/pairs/margin": ("held-out pair margin (nats)", ".3f"),
    "eval/labels/auc": ("held-out AUC of labels", ".3f"),
    "eval/accuracy": ("eval accuracy of rewards", ".3f"),
    "eval/margin": ("eval reward margin", ".3f"),
    "eval/kl": ("eval KTO KL", ".3f"),
    "eval/logratios/chosen": ("eval chosen log-ratio", ".2f"),
    "tail/rewards/margins": ("train margin at end", ".3f"),
    "eval/objective/scores": ("eval score", ".3f"),
    "eval/objective/kl": ("eval KL (nats)", ".3f"),
    "eval/completions/clipped_ratio": ("eval cut off", ".2f"),
    "eval/kl_ref/sequence_k1": ("sampled KL (nats)", ".3f"),
    "exact/kl": ("exact KL (nats)", ".3f"),
    "exact/reward": ("exact reward", ".3f"),
    "exact/frontier_reward": ("frontier at that KL", ".3f"),
    "exact/frontier_gap": ("gap", ".3f"),
    **{f"{CHOSEN}{name}": (f"update chosen by {name}", ".0f") for name in CHOOSES},
    "time/train_seconds": ("seconds", ".0f"),
}


def rows_of_csv(file: Path) -> list[dict[str, Any]]:
    """The rows of a table that was written as CSV, with None for empty cells. Empty if there is no file."""
    import pandas as pd  # as in `sweep_frame`

    if not file.is_file():
        return []
    frame = pd.read_csv(file).astype(object)
    return [
        {str(name): value for name, value in row.items()} for row in frame.where(frame.notna(), None).to_dict("records")
    ]


def csv_of(frame: pd.DataFrame) -> str:
    """A table as CSV, in which no text is a formula of a spreadsheet."""
    texts = frame.select_dtypes(exclude=["number", "bool"])
    safe = frame.assign(**{str(name): texts[name].map(formula_free) for name in texts})
    return str(safe.rename(columns=formula_free).to_csv(index=False))


def columns_of(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """metric -> (heading, format) of the columns for these metrics: COLUMNS, and metrics of sampled answers.

    These are scores and win-rates by each judge, KL and refusals. If the prompts come from a file, its name follows.
    Columns of samples stand beside each other, in front of the exact ones.
    """
    given = list(names)
    sampled: dict[str, tuple[str, str]] = {}
    for name in given:
        split, _, rest = name.partition("/")
        of_file = split == "questions"
        asked, _, rest = rest.partition("/") if of_file else ("", "", rest)
        if (split == "eval" or of_file) and (heading := _sampled_heading(rest, of_file)):
            sampled[name] = (f"{heading} ({asked})" if of_file else heading, ".3f")
    fixed = {name: column for name, column in COLUMNS.items() if name in set(given)}
    before = [name for name in fixed if not name.startswith(("exact/", "time/"))]
    return {name: fixed[name] for name in before} | dict(sorted(sampled.items())) | fixed


_OF_FILES = {
    "kl_ref/sequence_k1": "sampled KL (nats)",
    "refusals/over_refusal": "refusals of safe prompts",
    "refusals/refusal": "refusals of unsafe prompts",
}


def _sampled_heading(name: str, of_file: bool) -> str:
    """The heading of a metric of SAMPLED (alignlab/tracking/metrics.py); empty if it has no column.

    of_file: whether the prompts come from a file.
    """
    kind, *others = name.split("/")
    if kind == "score" and others[-1:] == ["mean"]:
        return f"score by {'/'.join(others[:-1])}"
    if kind == "winrate" and len(others) == 1:
        return f"win-rate by {others[0]}"
    return _OF_FILES.get(name, "") if of_file else ""


# Axes that choose the data set. Metrics on different sets are never compared or averaged.
SETS = ("data", "data.path", "data.subset", "data.subsets", "data.world_seed")


def sweep_frame(points: Sequence[Mapping[str, Any]], records: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row per point: its axes, run id, status, and all metrics of the summary."""
    rows = []
    for point in points:
        record = records.get(point["run"], {})
        rows.append({**point, "status": record.get("status", "not run"), **record.get("summary", {})})
    import pandas as pd  # imported here: it takes half a second, and a line about one run does not need it

    return pd.DataFrame(rows)


def objectives(records: Iterable[Mapping[str, Any]], axes: Sequence[str]) -> list[str]:
    """The different objectives of the runs, one line each: name, matching dialects, and fields that are not an axis.

    A field that varies between runs (such as the strength) is shown with all its values.
    """
    found: dict[str, dict[str, dict[str, None]]] = {}
    for record in records:
        fields = dict(record.get("objective", {}))
        if fields:
            name, dialect, matching = fields.pop("name"), fields.pop("dialect", None), fields.pop("spoken", "")
            values = found.setdefault(f"{name} (dialect: {matching or 'none of those known'})" if dialect else name, {})
            for key, value in fields.items():
                if f"objective.{key}" not in axes:
                    values.setdefault(key, {})[str(value)] = None
    lines = {
        who: ", ".join(f"{key} {' | '.join(seen)}" for key, seen in values.items()) for who, values in found.items()
    }
    return [f"{who}: {rest}" if rest else who for who, rest in lines.items()]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. No cell ends its column, holds HTML or controls a terminal; other markup in cells stays."""
    lines = ["| " + " | ".join(map(_cell, header)) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(map(_cell, cells)) + " |" for cells in rows)])


def _cell(text: str) -> str:
    return _ENDS_A_CELL.sub(r"\\\g<0>", one_line(text, MOST))


def markdown(frame: pd.DataFrame, axes: Sequence[str]) -> str:
    """A Markdown table with one row per point: axes, metrics of COLUMNS that any point has, status, run."""
    shown = columns_of(c for c in frame.columns if frame[c].notna().any())
    rows = []
    for _, row in frame.iterrows():
        cells = [str(row[a]) for a in axes]
        cells += ["" if math.isnan(value := float(row[c])) else format(value, shown[c][1]) for c in shown]
        rows.append([*cells, str(row["status"]), str(row["run"])])
    return table([*axes, *(heading for heading, _ in shown.values()), "status", "run"], rows)


def blocks_by_set(frame: pd.DataFrame, axes: Sequence[str]) -> list[tuple[str, pd.DataFrame, list[str]]]:
    """(name of the data set, its points, the other axes) for each set; one block without a name if no axis is a set."""
    sets = [axis for axis in axes if axis in SETS]
    if not sets:
        return [("", frame, list(axes))]
    others = [axis for axis in axes if axis not in sets]
    named = ["data"] if "data" in sets and frame.groupby(sets).ngroups == frame["data"].nunique() else sets
    return [
        (label(named, [part[axis].iloc[0] for axis in named]), part, others)
        for _, part in frame.groupby(sets, sort=False)
    ]


def in_blocks(blocks: Iterable[tuple[str, str]]) -> str:
    """(name, text) of each block, one below the other. A name is a heading."""
    return "\n\n".join(f"## {name}\n\n{text}" if name else text for name, text in blocks)


def headline(record: Mapping[str, Any]) -> str:
    """One line about one run: status and metrics."""
    summary = record.get("summary", {})
    numbers = [f"{heading} {summary[c]:{form}}" for c, (heading, form) in columns_of(summary).items()]
    return f"{record['id']} {record['status']}: {', '.join(numbers)}"
