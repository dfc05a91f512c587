"""Shows runs on the terminal: a list, one run in full, two runs side by side. Exports them to a file."""

from __future__ import annotations

import shlex
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from alignlab.inert import MOST_OF_OUTPUT, one_line, visible
from alignlab.integrity import new_file
from alignlab.redaction import redacted, redacted_config, redacted_override
from alignlab.reports.live import last_row
from alignlab.reports.screen import screen
from alignlab.reports.tables import COLUMNS, csv_of
from alignlab.runs.directory import RunDir
from alignlab.runs.query import Record, difference
from alignlab.runs.record import is_number

_FACTS = ("id", "status", "reason", "attempt", "started", "ended", "parent")  # of a run, in exported tables
_PATH = 5_000  # most characters of a path that is shown
_WIDE = 400  # width of output that does not go to a terminal, so that nothing is cut
_IN_LISTS = ("eval/loss", "eval/rewards/accuracies", "eval/accuracy", "exact/kl", "exact/reward", "exact/frontier_gap")
_HIDDEN = ("output_root=", "tracking=", "sweep.name=", "hydra", "launcher")


def show_table(records: Sequence[Record], root: Path) -> None:
    """Print one line per run, with the overrides that not all of the runs have."""
    metrics = [name for name in _IN_LISTS if any(name in r.get("summary", {}) for r in records)]
    rows = [["run", "status", "step", "started", *(COLUMNS[name][0] for name in metrics)]]
    for record in records:
        summary = record.get("summary", {})
        rows.append(
            [
                one_line(record["id"]),
                str(record.get("status")),
                _step(record, root),
                one_line(record.get("started") or "")[:16].replace("T", " "),
                *(_formatted(summary.get(name), COLUMNS[name][1]) for name in metrics),
            ]
        )
    # Not a table of rich, which takes seconds for thousands of runs.
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + "  " for row in rows]
    out = console()
    room = max(20, out.width - len(lines[0])) if out.is_terminal else sys.maxsize
    out.print(Text(lines[0] + "typed for it", style="bold"), soft_wrap=True)
    for line, typed in zip(lines[1:], _typed(records), strict=True):
        parts = [typed] if len(typed) <= room else textwrap.wrap(typed, room, break_on_hyphens=False)
        print((line + ("\n" + " " * len(line)).join(parts)).rstrip())


def labels(records: Sequence[Record]) -> list[str]:
    """The overrides of each run that not all of them have; the run's id if these do not distinguish it."""
    typed = _typed(records)
    times = Counter(typed)
    return [text if text and times[text] == 1 else r["id"] for r, text in zip(records, typed, strict=True)]


def _typed(records: Sequence[Record]) -> list[str]:
    """The overrides of each run that not all of them have, without output folders, trackers and launchers."""
    common = set.intersection(*typed) if (typed := [set(o) for r in records if (o := r.get("overrides"))]) else set()
    return [
        " ".join(
            shlex.quote(one_line(redacted_override(o)))
            for o in r.get("overrides", [])
            if o not in common and not o.lstrip("+").startswith(_HIDDEN)
        )
        for r in records
    ]


def _distinguishes(override: str, common: set[str]) -> bool:
    return override not in common and not override.lstrip("+").startswith(_HIDDEN)


def show_screen(record: Record, run: RunDir, children: Sequence[str]) -> None:
    """Print a run on one screen."""
    out = console()
    out.print(screen(record, run, children, min(out.width, 120)), highlight=False, soft_wrap=True)


def show_run(record: Record, run: RunDir, children: Sequence[str]) -> None:
    """Print everything that is recorded about a run, and the end of its log. Keys are hidden."""
    out = console()
    facts = ("status", "reason", "attempt", "started", "ended", "host", "pid", "parent", "sweep", "git")
    out.print(Text(one_line(f"{record['id']}  {run.path}", _PATH), style="bold"))
    _pairs(out, [(name, record.get(name)) for name in facts if record.get(name) is not None])
    if children:
        _pairs(out, [("started from it", ", ".join(children))])
    for attempt in record.get("attempts", []):
        name = f"attempt {attempt.get('attempt', '?')}"
        _pairs(out, [(name, f"{attempt.get('status') or 'unknown'}: {attempt.get('reason') or ''}")])
    out.print("\nconfig", style="bold")
    _pairs(out, list(redacted_config(record["flat"]).items()))
    out.print("\nsummary", style="bold")
    _pairs(out, [(name, _number(value)) for name, value in record.get("summary", {}).items()])
    if run.log.is_file():
        out.print(Text(f"\nend of {one_line(run.log, _PATH)}", style="bold"))
        lines = run.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        out.print(Text(redacted(visible("\n".join(lines)))))


def show_comparison(one: Record, other: Record) -> None:
    """Print keys of the config that differ, then every metric that both runs have, with its difference."""
    out = console()
    for title, rows in (
        ("config", difference(*(record | {"flat": redacted_config(record["flat"])} for record in (one, other)))),
        ("versions", _versions(one, other)),
    ):
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for heading in ("", one["id"], other["id"]):
            table.add_column(_text(heading))
        for key, pair in rows.items():
            table.add_row(*map(_text, (key, *pair)))
        out.print(table if rows else f"{title}: the same", highlight=False)
    table = Table(title="summary", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in ("", one["id"], other["id"], "difference"):
        table.add_column(_text(heading), justify="left" if not heading else "right")
    mine, theirs = one.get("summary", {}), other.get("summary", {})
    for name in (n for n in mine if isinstance(mine[n], int | float) and isinstance(theirs.get(n), int | float)):
        table.add_row(_text(name), *map(_number, (mine[name], theirs[name], theirs[name] - mine[name])))
    out.print(table)


def write_table(records: Sequence[Record], file: Path) -> None:
    """Write one row per run with facts, config and summary, as .csv or .parquet by the file's name, atomically.

    Keys are hidden, and control characters are visible escapes. In a .csv, no text is a formula of a spreadsheet.
    """
    import pandas as pd

    rows = [
        {
            **{name: _cell(record.get(name)) for name in _FACTS},
            **{visible(key): _cell(value) for key, value in redacted_config(record["flat"]).items()},
            **{visible(key): value for key, value in record.get("summary", {}).items()},
        }
        for record in records
    ]
    frame = pd.DataFrame(rows)
    with new_file(file) as scratch:
        if file.suffix == ".csv":
            scratch.write_text(csv_of(frame), encoding="utf-8")
        else:
            mixed = [name for name in frame if frame[name].map(type).nunique() > 1 and frame[name].dtype == object]
            frame.astype(dict.fromkeys(mixed, "string")).to_parquet(scratch, index=False)


def _cell(value: Any) -> Any:
    """A value of a record for a table that other software reads."""
    if isinstance(value, int) and not is_number(value):
        return f"{value:.6e}" if value.bit_length() < 1000 else "a number with more than 300 digits"
    return redacted(visible(value, MOST_OF_OUTPUT)) if isinstance(value, str | list) else value


def console() -> Console:
    """A console with the width of the terminal, or without a limit for a pipe or file."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDE, highlight=False)


def _step(record: Record, root: Path) -> str:
    steps = record["flat"].get("trainer.max_steps", "?")
    if record.get("status") in ("done", "queued"):
        return f"{steps if record['status'] == 'done' else 0}/{steps}"
    return f"{last_row(RunDir.of(root, record['id']).metrics).get('train/global_step', 0)}/{steps}"


def _versions(one: Record, other: Record) -> dict[str, tuple[Any, Any]]:
    both = [{"git": r.get("git"), **r.get("versions", {})} for r in (one, other)]
    pairs = {key: (both[0].get(key), both[1].get(key)) for key in both[0] | both[1]}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _pairs(out: Console, pairs: Sequence[tuple[str, Any]]) -> None:
    shown = [(redacted(one_line(name)), redacted(one_line(value, 2000))) for name, value in pairs]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        out.print(Text(f"  {name:<{width}}  {value}"))


def _text(value: Any) -> Text:
    """One line that rich prints as it is: names and values of a record may hold rich's own markup."""
    return Text(redacted(one_line(value)))


def _formatted(value: Any, form: str) -> str:
    """The number in this format; empty for anything else."""
    return format(value, form) if isinstance(value, int | float) else ""


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
