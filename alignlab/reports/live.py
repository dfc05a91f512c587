"""Shows the points of a sweep while they run. Reads run directories only, so any process can watch."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from alignlab.inert import one_line
from alignlab.integrity import refuse_device
from alignlab.runs.directory import RunDir
from alignlab.runs.record import is_number
from alignlab.runs.sweep_record import read_sweep_record
from alignlab.spelling import counted

REFRESH = 1.0  # seconds between two readings
_TAIL = 8192  # bytes at the end of metrics.jsonl that contain its last row
_POINT = 26  # characters of a point's name in a narrow terminal
_WORST_FIRST = ("failed", "diverged", "interrupted", "running", "queued", "done")
_COLOUR = {"failed": "red", "diverged": "magenta", "interrupted": "yellow", "running": "cyan", "done": "green"}
# metric -> heading; values are from the last row that a run wrote
_NOW = {
    "train/loss": "loss", "train/rewards/margins": "margin", "train/rewards/accuracies": "accuracy",
    "train/logratios/chosen": "chosen log-ratio", "train/objective/scores": "score", "train/objective/kl": "KL",
}  # fmt: skip


@dataclass(frozen=True)
class RunStatus:
    """The current state of one run.

    before:  steps of earlier attempts.
    seconds: duration of this attempt (s).
    """

    id: str
    label: str
    status: str
    reason: str
    step: int
    steps: int
    before: int
    seconds: float
    metrics: Mapping[str, float]


def run_status(run: RunDir, label: str = "") -> RunStatus:
    """The current state of a run, from its record and the end of its metrics."""
    record = run.state()
    row = last_row(run.metrics)
    steps = int((record.get("config") or {}).get("trainer", {}).get("max_steps", 0))
    return RunStatus(
        id=run.id,
        label=label,
        status=record.get("status", "not run"),
        reason=one_line(record.get("reason") or ""),
        step=steps if record.get("status") == "done" else int(row.get("train/global_step", 0)),
        steps=steps,
        before=int(record.get("resumed_from") or 0),
        seconds=_seconds(record),
        metrics=row,
    )


def last_row(file: Path) -> dict[str, Any]:
    """The last complete training row of a metrics file; reads only the end of the file. Empty if there is none."""
    try:
        refuse_device(file)
        with file.open("rb") as handle:
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - _TAIL))
            lines = handle.read().split(b"\n")[:-1]
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # the row begins before the tail, or is damaged
            return {}
        if isinstance(row, dict) and "train/loss" in row:
            return {name: value for name, value in row.items() if is_number(value)}
    return {}


def sweep_status(directory: Path) -> list[RunStatus]:
    """The current state of all points of a sweep."""
    sweep = read_sweep_record(directory)
    axes = sweep["axes"]
    return [
        run_status(
            RunDir.of(directory.parents[1], point["run"]),
            ", ".join(f"{axis.rpartition('.')[2]} {point[axis]}" for axis in axes),
        )
        for point in sweep["points"]
    ]


def view(runs: Sequence[RunStatus], title: str, rows: int) -> RenderableType:
    """Counts by status, time left, and a table of at most `rows` points, worst status first."""
    counts = Counter(s.status for s in runs)
    head = Text(f"{one_line(title)}: {counted(len(runs), 'point')}", style="bold")
    for status in _WORST_FIRST:
        if counts[status]:
            head.append(f"  {counts[status]} {status}", style=_COLOUR.get(status, ""))
    if left := seconds_left(runs):
        head.append(f"  about {_clock(left)} left")
    table = Table(box=None, pad_edge=False)
    shown = [name for name in _NOW if any(name in s.metrics for s in runs)]
    for heading in ("point", "status", "", "step", "time", *(_NOW[name] for name in shown)):
        table.add_column(heading, overflow="fold" if heading == "point" else "ellipsis")
    table.columns[0].min_width = min(_POINT, max((len(s.label or s.id) for s in runs), default=0))
    ordered = sorted(runs, key=lambda s: _WORST_FIRST.index(s.status) if s.status in _WORST_FIRST else 4)
    for s in ordered[:rows]:
        table.add_row(
            Text(one_line(s.label or s.id)),
            Text(s.status, style=_COLOUR.get(s.status, "")),
            ProgressBar(total=max(1, s.steps), completed=s.step, width=8),
            f"{s.step}/{s.steps}",
            _clock(s.seconds) if s.status != "queued" else "",
            *(f"{s.metrics[name]:.3f}" if name in s.metrics else "" for name in shown),
        )
    hidden = len(ordered) - min(rows, len(ordered))
    below = [Text(f"... and {hidden} more", style="dim")] if hidden else []
    ended_badly = [s for s in ordered if s.status in ("failed", "diverged")]
    for s in ended_badly[:5]:
        below.append(Text(f"{one_line(s.label or s.id)}: {s.status}: {s.reason}", style=_COLOUR[s.status]))
    return Group(head, table, *below)


def seconds_left(runs: Sequence[RunStatus]) -> float:
    """Remaining steps divided by the steps per second of running points (s); 0 if it is not known."""
    rate = sum((s.step - s.before) / s.seconds for s in runs if s.status == "running" and s.seconds)
    left = sum(s.steps - s.step for s in runs if s.status in ("running", "queued"))
    return left / rate if rate else 0.0


@contextmanager
def shown_live(directory: Path) -> Iterator[None]:
    """Show the points of a sweep on the terminal while the block runs."""
    console = Console()
    over = threading.Event()

    def current() -> RenderableType:
        return view(sweep_status(directory), directory.name, max(3, console.height - 8))

    with Live(current(), console=console, refresh_per_second=4) as live:

        def follow() -> None:
            while not over.wait(REFRESH):
                live.update(current())

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            live.update(current())


def watch(runs: Any, title: str) -> None:
    """Show the runs that `runs()` returns until none is running or queued.

    A terminal shows them live; a file or a pipe gets a table whenever a status changes.
    """
    console = Console()

    def current(found: Sequence[RunStatus]) -> RenderableType:
        return view(found, title, max(3, console.height - 8))

    found = runs()
    if not console.is_terminal:
        seen: list[str] = []
        while True:
            if (now := [s.status for s in found]) != seen:
                console.print(current(found))
            seen = now
            if not {"running", "queued"} & set(seen):
                return
            time.sleep(REFRESH)
            found = runs()
    with Live(current(found), console=console, refresh_per_second=4) as live:
        while any(s.status in ("running", "queued") for s in found):
            time.sleep(REFRESH)
            found = runs()
            live.update(current(found))


def _seconds(record: Mapping[str, Any]) -> float:
    if not record.get("started"):
        return 0.0
    began = datetime.fromisoformat(record["started"])
    ended = datetime.fromisoformat(record["ended"]) if record.get("ended") else datetime.now(timezone.utc)
    return max(0.0, (ended - began).total_seconds())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
