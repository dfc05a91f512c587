"""One run on one screen of a terminal: what it is, how it went, curves as sparklines, its numbers."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from rich.text import Text

from alignlab.inert import one_line
from alignlab.redaction import redacted, redacted_override
from alignlab.reports.curves import CURVES, faults_of_metrics, logged, rows_of
from alignlab.reports.tables import COLUMNS
from alignlab.runs.directory import RunDir
from alignlab.runs.query import Record
from alignlab.spelling import counted

_BLOCKS = "▁▂▃▄▅▆▇█"
_MOST_CURVES, _LOG_LINES, _SPARK = 6, 3, 32
_PLACE = ("++sweep.name=", "output_root=")


def screen(record: Record, run: RunDir, children: Sequence[str], width: int) -> Text:
    """The run in at most about 40 lines.

    width: columns of the terminal. Longer lines are cut.
    """
    out = Text()
    out.append(f"{_safe(record['id'])}  {_safe(record.get('status'))}\n", style="bold")
    for name, value in _facts(record, run, children):
        out.append(_cut(f"  {name:<9} {value}", width) + "\n")
    curves = list(_curves(run))
    if curves:
        room = max(len(name) for name, _, _ in curves)
        out.append("\ncurves\n", style="bold")
        for name, line, ends in curves:
            out.append(_cut(f"  {name:<{room}}  {line:<{_SPARK}}  {ends}", width) + "\n")
    if numbers := list(_numbers(record)):
        out.append("\nnumbers\n", style="bold")
        out.append(_in_columns(numbers, width))
    if findings := list(_findings(record)):
        out.append("\ndata\n", style="bold")
        out.append("".join(_cut(f"  {line}", width) + "\n" for line in findings[:3]))
        if len(findings) > 3:
            out.append(f"  and {len(findings) - 3} more\n")
    if record.get("status") != "done" and run.log.is_file():
        out.append("\nend of its log\n", style="bold")
        lines = run.log.read_text(encoding="utf-8", errors="replace")[-20_000:].splitlines()[-_LOG_LINES:]
        out.append("".join(_cut(f"  {_safe(line)}", width) + "\n" for line in lines))
    out.append(f"\nalignlab runs show {_safe(record['id'])} --full shows its config, all metrics and more of its log")
    return out


def sparkline(values: Sequence[float], width: int = _SPARK) -> str:
    """A curve as one line of blocks: means over at most `width` bins, from the lowest block to the highest."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    bins = min(width, len(finite))
    edges = [round(i * len(finite) / bins) for i in range(bins + 1)]
    means = [sum(finite[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round((mean - low) / (high - low) * top) if high > low else top // 2] for mean in means)


def _facts(record: Record, run: RunDir, children: Sequence[str]) -> Iterator[tuple[str, str]]:
    if record.get("reason"):
        yield "reason", _safe(record["reason"])
    yield "folder", one_line(run.path, 5_000)
    took = _seconds(record)
    started = _safe(str(record.get("started") or "not yet")[:16].replace("T", " "))
    where = f" on {_safe(record['host'])}" if record.get("host") else ""
    attempts = f", attempt {record['attempt']}" if (record.get("attempt") or 0) > 1 else ""
    yield "started", f"{started}{f', {took:.0f} s' if took else ''}{where}{attempts}"
    for name in ("sweep", "parent", "reward"):
        if record.get(name):
            yield name, _safe(record[name])
    if children:
        yield (
            "children",
            f"{', '.join(map(_safe, children[:4]))}{f' and {len(children) - 4} more' if len(children) > 4 else ''}",
        )
    typed = [redacted_override(str(word)) for word in record.get("overrides", [])]
    if words := " ".join(shlex.quote(one_line(word)) for word in typed if not word.startswith(_PLACE)):
        yield "typed", words
    if record.get("status") == "done":
        yield from (("note", _safe(fault)) for fault in faults_of_metrics(run, record))


def _curves(run: RunDir) -> Iterator[tuple[str, str, str]]:
    """(name, sparkline, first and last value) of the curves that the run has logged."""
    curves = {name: curve for name, curve in logged(rows_of(run.metrics)).items() if len(curve) > 1}
    shown = [name for name in CURVES if name in curves][:_MOST_CURVES]
    for name in shown:
        values = list(curves[name].values())
        yield CURVES[name], sparkline(values), f"{values[0]:.4g} to {values[-1]:.4g}"
    if shown:
        yield "updates", "", f"{max(map(max, curves.values())):g}"


def _numbers(record: Record) -> Iterator[tuple[str, str]]:
    summary = record.get("summary", {})
    for name, (heading, form) in COLUMNS.items():
        if isinstance(value := summary.get(name), int | float):
            yield heading, format(value, form)


def _findings(record: Record) -> Iterator[str]:
    data = record.get("data")
    audit = data.get("audit") if isinstance(data, Mapping) else None
    for kind in ("errors", "warnings"):
        for finding in (audit.get(kind) or []) if isinstance(audit, Mapping) else ():
            if isinstance(finding, Mapping):
                yield f"{kind[:-1]}: {_safe(finding.get('text', ''))}"
    if isinstance(audit, Mapping) and (unchecked := audit.get("unchecked")):
        yield f"not checked: {counted(len(unchecked), 'part')} of the data"


def _in_columns(pairs: Sequence[tuple[str, str]], width: int) -> str:
    """Pairs of names and values in as many columns as fit, filled downwards."""
    cells = [f"{name} {value}" for name, value in pairs]
    wide = max(map(len, cells)) + 3
    columns = max(1, min(3, (width - 2) // wide))
    rows = math.ceil(len(cells) / columns)
    lines = ["  " + "".join(f"{cell:<{wide}}" for cell in cells[i::rows]).rstrip() for i in range(rows)]
    return "\n".join(lines) + "\n"


def _seconds(record: Record) -> float:
    try:
        begun, ended = (datetime.fromisoformat(str(record.get(key))) for key in ("started", "ended"))
    except ValueError:
        return 0.0
    return (ended - begun).total_seconds()


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 3] + "..."


def _safe(text: Any) -> str:
    return redacted(one_line(text, 500))
