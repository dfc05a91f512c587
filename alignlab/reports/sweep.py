"""Table and figures of a sweep, made from its `sweep.json` and the directories of its runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from alignlab.errors import DataError
from alignlab.inert import fenced, one_line
from alignlab.inert import markdown as escaped
from alignlab.integrity import write_text
from alignlab.reports.collect import Collected, read_sweep
from alignlab.reports.fairness import fairness
from alignlab.reports.means import mean_text
from alignlab.reports.seeds_table import (
    Settings,
    conclusions,
    prompts_left_out,
    settings_frame,
    settings_markdown,
    split_axes,
)
from alignlab.reports.series import form, means_by_setting
from alignlab.reports.tables import (
    COLUMNS,
    blocks_by_set,
    columns_of,
    csv_of,
    in_blocks,
    markdown,
    objectives,
    sweep_frame,
)
from alignlab.runs.directory import RunDir
from alignlab.runs.sweep_record import read_sweep_record
from alignlab.spelling import counted
from alignlab.statistics.comparison import label

_LOG_LINES = 20
_PATH = 5_000  # most characters of a path that is shown
_SAMPLED = "For metrics of sampled answers (sampled KL, scores, win-rates), ± counts seeds and prompts together."
_PAIRS = "eval/pairs/accuracy"

# What the line about a finished point shows: the first three that the run has.
_LINE_METRICS = (
    "exact/frontier_gap", "exact/kl", "eval/objective/scores", "eval/objective/kl", _PAIRS, "eval/labels/auc",
    "eval/rewards/accuracies",
    "eval/accuracy", "eval/loss",
)  # fmt: skip
_MOST_IN_LINE = 3

# Training curves that are drawn in the folder of a sweep.
_CURVES = ("train/loss", "train/logratios/margins", "train/rewards/accuracies", "train/logratios/chosen")


def write_report(directory: Path) -> str:
    """Write `table.md`, `table.csv` and `figures/` into a sweep's directory; return the table as text.

    If `seed` is an axis, the table has one row per setting (`settings.csv` has all digits), and `table.md` lists the
    points below it. Its numbers and its comparisons are those of the page (`alignlab.reports.page`). If the data set is
    an axis, each set has a table of its own: nothing is compared or averaged over sets.
    """
    sweep = read_sweep_record(directory)
    root = directory.parents[1]
    runs = {point["run"]: RunDir.of(root, point["run"]) for point in sweep["points"]}
    records = {run_id: run.state() for run_id, run in runs.items()}
    frame = sweep_frame(sweep["points"], records)
    write_text(directory / "table.csv", csv_of(frame))
    blocks = blocks_by_set(frame, sweep["axes"])
    points = in_blocks((name, markdown(part, own)) for name, part, own in blocks)
    _, repeated = split_axes(sweep["axes"], sweep.get("zip", []))
    if repeated:
        found = read_sweep(directory)
        write_text(directory / "settings.csv", _settings_csv(found))
        text = in_blocks((name, _settings_text(found, settings)) for name, settings in found.settings)
        below = f"\n\n## Points\n\n{points}"
    else:
        (directory / "settings.csv").unlink(missing_ok=True)  # left by an earlier sweep of this name
        text, below = points, ""
    above = "".join(f"- {line}\n" for line in objectives(records.values(), sweep["axes"]))
    for name, part, _ in blocks:
        where = f"{name}: " if name else ""
        above += "".join(f"- {where}{line}\n" for line in fairness([records[run] for run in part["run"]]))
    unfinished = [_unfinished(point, records[point["run"]], sweep["axes"]) for point in sweep["points"]]
    causes = "\n".join(line for line in unfinished if line)
    above += "".join(f"- {line}\n" for line in without_pairs(sweep["points"], records, sweep["axes"]))
    above += "".join(f"- {line}\n" for line in made_by_different_code(_with_ancestors(records, root).values()))
    text = (f"{above}\n" if above else "") + text + (f"\n\nNot done:\n\n{causes}" if causes else "")
    below += "".join(
        _end_of_log(file)
        for p in sweep["points"]
        for file in _logs(runs[p["run"]], records[p["run"]], directory / "logs")
    )
    heading = f"# {escaped(sweep['name'])}\n\n"
    heading += f"{escaped(sweep['question'], 2000)}\n\n" if sweep["question"] else ""
    write_text(directory / "table.md", f"{heading}{text}{below}\n")
    _draw_figures(directory, f"{heading}{text}{below}")
    return text


def _draw_figures(directory: Path, about: str) -> None:
    """Draw reward against KL, and training curves, unless the figures of the same table (`about`) are there already."""
    folder = directory / "figures"
    drawn, files = folder / "drawn.md", {kind: folder / f"{kind}.png" for kind in ("frontier", "curves")}
    if drawn.is_file() and files["curves"].is_file() and drawn.read_text(encoding="utf-8") == about:
        return
    for file in (drawn, *files.values()):  # left by an earlier sweep of this name
        file.unlink(missing_ok=True)
    # Imported here: it takes a second, and a line about one point does not need it.
    from alignlab.reports.figures import curves, frontier, save
    from alignlab.reports.series import curves_frame

    found = read_sweep(directory)
    if not found.done:
        return

    known = curves_frame(found)["metric"].unique()
    shown = ",".join(name for name in _CURVES if name in known)
    for kind, draw in (("frontier", frontier), ("curves", partial(curves, metric=shown))):
        try:
            figure = draw(found, style="screen")
        except DataError:  # the runs lack what it shows
            continue
        figure.suptitle(one_line(found.question or found.name, 90))
        save(figure, files[kind], "screen")
    if files["curves"].is_file():
        write_text(drawn, about)


def _settings_text(found: Collected, settings: Settings) -> str:
    """The table of settings with its conclusions below."""
    means = {
        metric: {
            name: mean_text(row["value"], row["low"], row["high"], form(metric), row["over"])
            for name, row in rows.items()
        }
        for metric, rows in means_by_setting(found, settings).items()
    }
    sentences = "\n".join(f"- {line}" for line in settings_sentences(found, settings))
    return f"{settings_markdown(settings, means)}\n\n{sentences}"


def settings_sentences(found: Collected, settings: Settings) -> list[str]:
    """Sentences below the table of settings, here and on the page."""
    lines = list(conclusions(settings, str(found.about.get("metric") or "")))
    if any(not one.all_prompts for of_run in found.by_prompt.values() for _, one in of_run):
        lines.append(_SAMPLED)
    left_out, prompts = found.prompts_left_out(settings)
    if left_out:
        lines.append(prompts_left_out(left_out, prompts))
    return [*lines, *_from_fewer_seeds(settings)]


def _from_fewer_seeds(settings: Settings) -> list[str]:
    """A line if some finished runs of a setting lack a metric that its other runs have."""
    lacking: dict[str, list[str]] = {}
    for name, metrics in settings.compared.values.items():
        done = sum(point["status"] == "done" for point in settings.points[name].values())
        for metric, (heading, _) in columns_of(metrics).items():
            if 0 < (having := len(metrics[metric])) < done:
                lacking.setdefault(heading, []).append(f"{name} ({having} of {done})")
    headings: dict[str, list[str]] = {}
    for heading, where in lacking.items():
        headings.setdefault("; ".join(where), []).append(heading)
    shown = ". ".join(f"{', '.join(of)}: {where}" for where, of in headings.items())
    return [f"Some finished runs lack a metric, so its mean is over fewer seeds: {shown}."] if shown else []


def _settings_csv(found: Collected) -> str:
    """The tables of settings of all sets with all digits. The column `set` names the set if there are several."""
    import pandas as pd  # as in `sweep_frame`

    frames = [settings_frame(settings, means_by_setting(found, settings)) for _, settings in found.settings]
    if len(frames) > 1:
        for (name, _), frame in zip(found.settings, frames, strict=True):
            frame.insert(0, "set", name)
    return csv_of(pd.concat(frames))


def _unfinished(point: Mapping[str, Any], record: Mapping[str, Any], axes: Sequence[str]) -> str:
    """A line about a point that is not done, with its status and the reason in its record; empty if it is done."""
    status = record.get("status", "not run")
    if status == "done":
        return ""
    name = label(axes, [point[axis] for axis in axes])
    default = "not begun" if status == "queued" else "no reason recorded"
    cause = f", {record.get('reason') or default}" if record else ""
    return f"- point {point['point']} ({name}; {point['run']}): {status}{cause}"


def without_pairs(
    points: Iterable[Mapping[str, Any]], records: Mapping[str, Mapping[str, Any]], axes: Sequence[str]
) -> list[str]:
    """A line for each reason why some finished points lack the accuracy on held-out pairs."""
    done = {point["run"]: point for point in points if records[point["run"]].get("status") == "done"}
    lacking = [run for run in done if _PAIRS not in records[run].get("summary", {})]
    why: dict[str, dict[str, None]] = {}
    for run in lacking if len(lacking) < len(done) else ():
        name = label(axes, [done[run][axis] for axis in axes])
        why.setdefault(_why_without_pairs(records[run]), {})[name] = None
    return [f"Not measured on held-out pairs, {reason}: {'; '.join(names)}." for reason, names in why.items()]


def _why_without_pairs(record: Mapping[str, Any]) -> str:
    if record.get("config", {}).get("reference") == "none":
        return "because reference=none"
    if "pairs" not in record.get("data", {}):
        return "because an earlier version of alignlab made the run (rerun=true makes it again)"
    if any(name.startswith("exact/") for name in record.get("summary", {})):
        return "because the lab measures KL and reward exactly"
    return "because it trains no policy, or its data has no pairs"


def made_by_different_code(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for alignlab's revision and for each package whose version differs between runs, with counts of runs.

    A run that was resumed by other code counts for both versions.
    """
    made = [[_code(attempt) for attempt in _attempts(record)] for record in records]
    lines = []
    for name in dict.fromkeys(name for parts in made for code in parts for name in code):
        counts = Counter(
            v for parts in made for v in dict.fromkeys(str(code.get(name) or "unknown") for code in parts if code)
        )
        if len(counts) > 1:
            values = ", ".join(f"{value} ({counted(number, 'run')})" for value, number in counts.items())
            lines.append(f"Made by different code. {name}: {values}.")
    return lines


def _attempts(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The attempts that made a run: the last one, and those that it was resumed from."""
    parts = [record]
    for earlier in reversed(record.get("attempts", [])):
        if not parts[-1].get("resumed_from"):
            break
        parts.append(earlier)
    return parts


def _code(attempt: Mapping[str, Any]) -> dict[str, Any]:
    versions = attempt.get("versions")
    return {"alignlab's revision": attempt.get("git"), **versions} if versions else {}


def _with_ancestors(records: Mapping[str, Mapping[str, Any]], root: Path) -> dict[str, Mapping[str, Any]]:
    """Run id -> record, for the given runs, their parents and their reward models."""
    found = dict(records)
    waiting = list(records.values())
    while waiting:
        record = waiting.pop()
        for name in (record.get("parent"), record.get("reward")):
            if name and name not in found:
                found[name] = RunDir.of(root, name).record()
                waiting.append(found[name])
    return found


def _logs(run: RunDir, record: Mapping[str, Any], printed: Path) -> list[Path]:
    """Logs that may show why a run failed: its own, and the output of its process if that died.

    printed: folder with the output of processes. Output of vectorized runs is under the name of the first of them.
    """
    if record.get("status") not in ("failed", "diverged"):
        return []
    died = str(record.get("reason")).startswith("its process ended") or not run.log.is_file()
    return [run.log, printed / f"{record.get('stack') or run.id}.log"] if died else [run.log]


def _end_of_log(file: Path) -> str:
    """The last lines of a log as a section of Markdown; empty if there are none."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:] if file.is_file() else []
    text = fenced("\n".join(lines))
    return f"\n\n## End of {escaped(file, _PATH)}\n\n{text}" if lines else ""


def point_line(directory: Path, run_id: str) -> str:
    """One line about a point that has just ended: its axes, its run and the first of its numbers, or why it failed."""
    sweep = read_sweep_record(directory)
    point = next((p for p in sweep["points"] if p["run"] == run_id), None)
    if point is None:
        return f"{run_id} has ended, but another command has replaced the sweep {directory.name}"
    record = RunDir.of(directory.parents[1], run_id).record()
    if record.get("status") != "done":
        return _unfinished(point, record, sweep["axes"]).removeprefix("- ")
    summary = record.get("summary", {})
    shown = [name for name in _LINE_METRICS if name in summary][:_MOST_IN_LINE]
    numbers = [f"{COLUMNS[name][0]} {summary[name]:{COLUMNS[name][1]}}" for name in shown]
    if "time/train_seconds" in summary:
        numbers.append(f"{summary['time/train_seconds']:.0f} s")
    name = label(sweep["axes"], [point[axis] for axis in sweep["axes"]])
    return ", ".join([f"point {point['point']} ({name}; {run_id}): done", *numbers])
