"""What the page of a sweep says, as plain values: sentences, tables, and the numbers of its figures.

The HTML page and its Markdown twin show the same content. Texts are visible (`alignlab.inert`) and without keys, but
not escaped: that is for whoever writes the markup.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from alignlab.inert import one_line, visible
from alignlab.integrity import json_digest
from alignlab.redaction import redacted, redacted_config
from alignlab.reports import series
from alignlab.reports.against import Against
from alignlab.reports.answer import answers_of
from alignlab.reports.collect import Collected
from alignlab.reports.curves import CURVES
from alignlab.reports.fairness import fairness
from alignlab.reports.means import ends, mean_text
from alignlab.reports.page.completions import completions
from alignlab.reports.page.words import columns
from alignlab.reports.provenance import commands, facts
from alignlab.reports.seeds_table import Settings
from alignlab.reports.sweep import made_by_different_code, settings_sentences
from alignlab.reports.tables import COLUMNS, columns_of
from alignlab.runs.identity import flatten
from alignlab.spelling import counted
from alignlab.statistics.comparison import ComparedSettings
from alignlab.statistics.intervals import Estimate
from alignlab.statistics.seeds import Comparison

_LOG_LINES, _LOG_LINE, _MOST_LOGS = 15, 500, 20  # lines, characters of a line, logs


@dataclass(frozen=True)
class Cell:
    """A cell of a table. value, low, high: the number that its text stands for. link: an address that it leads to."""

    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    link: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the page.

    name:    for people who can't see the table, and for the name of its CSV file.
    numeric: headings of numbers.
    minor:   headings that are left out on paper, which has less room.
    meanings: (heading, what it means) of its columns.
    """

    name: str
    header: list[str]
    rows: list[list[Cell]]
    numeric: frozenset[str] = frozenset()
    minor: frozenset[str] = frozenset()
    meanings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Content:
    """All that the page shows. `figures` is passed to its script as JSON."""

    name: str
    question: str
    made: str
    counts: str
    answers: list[tuple[str, list[str]]]
    settings: list[tuple[str, Table, Table | None, list[str]]]
    figures: dict[str, Any]
    figure_tables: dict[str, Table]
    completions: dict[str, Any]
    differences: Table
    runs: Table
    failed: Table
    logs: list[tuple[str, str]]
    audits: list[dict[str, Any]]
    facts: Table
    commands: list[str]
    notes: list[str]
    against: Table | None = None
    against_notes: list[str] = field(default_factory=list)


def content(found: Collected, made: str, against: Against | None = None) -> Content:
    """The content of a page. made: when and by which version the page was made."""
    figures, tables, notes = _figures(found)
    differences, runs = _differences(found)
    sampled = completions(found)
    others = made_by_different_code(record for record in found.records.values() if record)
    return Content(
        name=_safe(found.name),
        question=_safe(found.question),
        made=made,
        counts=_counts(found),
        answers=[(_safe(name), [_safe(text, 4000) for text in told]) for name, told in answers_of(found)]
        or [("", ["Nothing can be told: there is no run."])],
        settings=[(_safe(name), *_settings(found, one)) for name, one in found.settings],
        figures={**figures, "completions": sampled, "runs": runs},
        figure_tables=tables,
        completions=sampled,
        differences=differences,
        runs=_runs_table(found),
        failed=_failed(found),
        logs=_logs(found),
        audits=_audits(found),
        facts=Table("provenance", ["what", "value"], [[Cell(_safe(a)), Cell(_safe(b, 1000))] for a, b in facts(found)]),
        commands=[visible(redacted(line), 2000) for line in commands(found)],
        notes=[_safe(note, 1000) for note in dict.fromkeys([*found.notes, *notes, *others])],
        against=_against(against) if against else None,
        against_notes=[_safe(note, 1000) for note in against.notes] if against else [],
    )


def _counts(found: Collected) -> str:
    counts = Counter(found.records[point["run"]].get("status", "not run") for point in found.points)
    listed = ", ".join(f"{number} {status}" for status, number in counts.most_common())
    seeds = f"; seeds: {', '.join(dict.fromkeys(found.seed(p) for p in found.points))}" if found.seed_axes else ""
    return one_line(f"{counted(len(found.points), 'run')}: {listed}{seeds}")


def _settings(found: Collected, settings: Settings) -> tuple[Table, Table | None, list[str]]:
    records = [found.records[point["run"]] for points in settings.points.values() for point in points.values()]
    lines = [_safe(text, 4000) for text in [*settings_sentences(found, settings), *fairness(records)]]
    return settings_table(found, settings), _budgets_table(settings), lines


# Metrics that the table of settings shows first, after the one that settings are compared by.
FIRST = ("exact/kl", series.SAMPLED_KL, "exact/reward", "exact/frontier_gap", "eval/pairs/accuracy")


def settings_table(found: Collected, settings: Settings) -> Table:
    """One row per setting: axes, seeds, the comparison with the best, and metrics with intervals."""
    compared = settings.compared
    means = series.means_by_setting(found, settings)
    of_table = columns_of({name for row in compared.settings for name in row.means})
    known = dict.fromkeys([*FIRST, *(name for name in means if name not in COLUMNS), *of_table])
    shown = [name for name in known if name != compared.metric and (name in means or name in of_table)]
    header = [*compared.axes, "seeds"]
    if compared.metric:
        header.append(series.heading(compared.metric))
    if compared.comparisons:
        header += [f"difference to the {_word(compared)}", *_TIED]
    header += [series.heading(name) for name in shown]
    rows = []
    for row in compared.settings:
        cells = [*map(_text_or_number, row.values), _seeds(settings.points[row.name])]
        for name in [*([compared.metric] if compared.metric else []), *shown]:
            if name in means:
                cells.append(_mean(means[name].get(row.name), series.form(name)))
            else:
                cells.append(_estimate(name, row.means.get(name), series.form(name)))
            if name == compared.metric and compared.comparisons:
                cells += _comparison(compared, row.name)
        rows.append(cells)
    header = [_safe(name) for name in header]
    minor = frozenset(_safe(series.heading(name)) for name in shown if not is_main(name))
    meanings = columns([*([compared.metric] if compared.metric else []), *shown])
    safe = tuple((_safe(name), _safe(text, 600)) for name, text in meanings)
    return Table("settings", header, rows, _numeric(header, rows), minor, safe)


def is_main(metric: str) -> bool:
    """Whether a table with little room has a column for the metric: KL, reward, and what judges say."""
    name = series.heading(metric)
    judged = name.startswith(("score by ", "win-rate", "exact win-rate"))
    return judged or metric in FIRST or metric.startswith("questions/")


def _budgets_table(settings: Settings) -> Table | None:
    """The reward of each method at the KLs that all methods reached; None if methods are not compared at such KLs."""
    compared = settings.compared
    if compared.budgets is None or compared.plane is None or not compared.budgets.budgets:
        return None
    header = ["at KL (nats)", "method", "seeds", series.heading(compared.plane.reward), "above the start"]
    header += ["difference to the highest", *_TIED]
    rows = []
    for budget in compared.budgets.budgets:
        for method, reward in budget.rewards.items():
            comparison = budget.comparisons.get(method)
            cells = [Cell(f"{budget.kl:.3g}", budget.kl), Cell(_safe(method)), Cell(str(reward.n), float(reward.n))]
            cells += [_estimate(compared.plane.reward, reward, ".3f")]
            cells += [_estimate("", budget.gains.get(method), ".3f")]
            difference = _first("highest", method, budget.rewards) if method == budget.best else Cell("")
            if comparison is not None and comparison.difference is not None and comparison.difference.n:
                difference = _signed(comparison.difference, ".3f")
            rows.append([*cells, difference, *_tied(comparison)])
    return Table("methods at common KLs", header, rows, _numeric(header, rows))


def _first(word: str, name: str, means: Mapping[str, Estimate]) -> Cell:
    """The cell of the setting that others are compared with. Another may have a better mean, and not be called best."""
    ahead = min if word == "lowest" else max
    value = means[name].value
    is_first = value == ahead(mean.value for mean in means.values())
    return Cell(word if is_first else f"{word} that can be called best", 0.0)


def _word(compared: ComparedSettings) -> str:
    return "lowest" if compared.better == "lower" else "highest"


def _seeds(points: Mapping[str, Any]) -> Cell:
    done = sum(point["status"] == "done" for point in points.values())
    return Cell(str(done) if done == len(points) else f"{done} of {len(points)}", float(done))


def _comparison(compared: ComparedSettings, name: str) -> list[Cell]:
    comparison = compared.comparisons.get(name)
    if comparison is None:
        return [Cell(""), *_tied(None)]
    if comparison.difference is None:
        group = next(group for group in compared.groups if group.best == name)
        known = any(c.tied is not None for other, c in group.comparisons.items() if other != name)
        rows = {row.name: row.means for row in compared.settings if row.name in group.names}
        means = {one: of[compared.metric or ""] for one, of in rows.items() if compared.metric in of}
        return [_first(_word(compared), name, means) if known else Cell("unknown", 0.0), *_tied(comparison)]
    if not comparison.difference.n:
        return [Cell("unknown"), *_tied(comparison)]
    return [_signed(comparison.difference, series.form(compared.metric or "")), *_tied(comparison)]


_TIED = ("tied with it", "seeds to add")


def _tied(comparison: Comparison | None) -> list[Cell]:
    """The cells below _TIED; empty for the setting that others are compared with."""
    if comparison is None or comparison.difference is None:
        return [Cell(""), Cell("")]
    if comparison.tied is None:
        return [Cell("unknown"), Cell("unknown")]
    if not comparison.tied:
        return [Cell("no"), Cell("")]
    more = comparison.more_seeds
    return [Cell("yes"), Cell("-") if more is None else Cell(str(more), float(more))]


def _runs_table(found: Collected) -> Table:
    """One row per run: axes, metrics, status, id."""
    columns = columns_of(dict.fromkeys(name for r in found.records.values() for name in r.get("summary", {})))
    header = [_safe(name) for name in [*found.axes, *(heading for heading, _ in columns.values()), "status", "run"]]
    rows = []
    for point in found.points:
        record = found.records[point["run"]]
        summary = record.get("summary", {})
        cells = [_text_or_number(point[axis]) for axis in found.axes]
        cells += [_number(summary.get(name), form) for name, (_, form) in columns.items()]
        rows.append([*cells, Cell(_safe(record.get("status", "not run"))), Cell(_safe(point["run"]))])
    return Table("runs", header, rows, _numeric(header, rows))


def _failed(found: Collected) -> Table:
    rows = []
    for point in found.points:
        record = found.records[point["run"]]
        status = record.get("status", "not run")
        if status == "done":
            continue
        default = "not begun" if status in ("queued", "not run") else "no reason recorded"
        reason = _safe(record.get("reason") or default, 500)
        named = ", ".join(f"{axis} {point[axis]}" for axis in found.axes)
        rows.append([Cell(_safe(named)), Cell(_safe(status)), Cell(reason), Cell(_safe(point["run"]))])
    return Table("runs that are not done", ["point", "status", "reason", "run"], rows)


def _logs(found: Collected) -> list[tuple[str, str]]:
    """(run, the last lines of its log) of runs that failed or diverged."""
    logs = []
    for point in found.points:
        file = found.run(point).log
        if found.records[point["run"]].get("status") in ("failed", "diverged"):
            with suppress(OSError):  # there is no log, or it can't be read
                lines = file.read_text(encoding="utf-8", errors="replace")[-20_000:].splitlines()[-_LOG_LINES:]
                shown = "\n".join(visible(line, _LOG_LINE) for line in lines)
                logs.append((_safe(point["run"]), redacted(shown)))
    return logs[:_MOST_LOGS]


def _differences(found: Collected) -> tuple[Table, dict[str, Any]]:
    """(table of the config keys that differ between runs, these keys and the metrics of each run for the script)."""
    known = [point for point in found.points if found.records[point["run"]].get("config")]
    flats = {p["run"]: redacted_config(_flat(found.records[p["run"]])) for p in known}
    texts = {run: {key: one_line(value, 200) for key, value in flat.items()} for run, flat in flats.items()}
    keys = dict.fromkeys(key for text in texts.values() for key in text)
    differing = [key for key in keys if len({text.get(key, "") for text in texts.values()}) > 1]
    rows = []
    for key in differing:
        counts = Counter(text.get(key, "(none)") for text in texts.values())
        values = ", ".join(f"{value} ({counted(number, 'run')})" for value, number in counts.most_common(12))
        rest = len(counts) - 12
        rows.append([Cell(_safe(key)), Cell(values + (f", and {rest} more" if rest > 0 else ""))])
    columns = columns_of(dict.fromkeys(name for r in found.records.values() for name in r.get("summary", {})))
    runs = {
        "keys": [_safe(key) for key in differing],
        "metrics": [_safe(heading) for heading, _ in columns.values()],
        "runs": [
            {
                "id": _safe(p["run"]),
                "name": _safe(", ".join(f"{axis} {p[axis]}" for axis in found.axes)),
                "values": [texts[p["run"]].get(key) for key in differing],
                "numbers": [_rounded(found.records[p["run"]].get("summary", {}).get(name)) for name in columns],
            }
            for p in known
        ],
    }
    return Table("keys of the config that differ", ["key", "values"], rows), runs


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    versions = {f"version of {name}": value for name, value in (record.get("versions") or {}).items()}
    own = {"alignlab's revision": record.get("git"), **versions}
    return {**flatten(record.get("config", {})), **{key: value for key, value in own.items() if value is not None}}


def _audits(found: Collected) -> list[dict[str, Any]]:
    """Each different audit of the rows once: its runs, findings, what was not checked, and numbers."""
    seen: dict[str, dict[str, Any]] = {}
    for point in found.points:
        data = found.records[point["run"]].get("data") or {}
        audit = data.get("audit")
        if not isinstance(audit, Mapping):
            continue
        key = json_digest([data.get("fingerprint"), audit], 12)
        seen.setdefault(key, {"audit": audit, "runs": []})["runs"].append(point["run"])
    return [_audit(one["audit"], one["runs"]) for one in seen.values()]


def _audit(audit: Mapping[str, Any], runs: Sequence[str]) -> dict[str, Any]:
    findings = []
    for kind in ("errors", "warnings"):
        for finding in audit.get(kind) or []:
            if isinstance(finding, Mapping):
                cure = f"; type: {finding['cure']}" if finding.get("cure") else ""
                findings.append((kind[:-1], _safe(f"{finding.get('text', finding.get('name', ''))}{cure}", 600)))
    findings += [("not checked", _safe(text, 600)) for text in audit.get("unchecked") or []]
    numbers = []
    facts = audit.get("facts")
    for split, name in (("train", "training rows"), ("eval", "held-out rows")):
        of = facts.get(split) if isinstance(facts, Mapping) else None
        if isinstance(of, Mapping):
            flat = flatten({key: value for key, value in of.items() if key != "tokens"})
            parts = [f"{key}: {value}" for key, value in flat.items() if key != "rows" and value not in (None, {}, [])]
            numbers.append((name, _safe(f"{of.get('rows', '?')}" + (f" ({'; '.join(parts)})" if parts else ""), 1000)))
    return {"runs": counted(len(runs), "run"), "findings": findings, "numbers": numbers}


def _against(against: Against) -> Table:
    header = ["setting", "metric", "then", "now", "difference", "seeds in common"]
    rows = [
        [
            Cell(_safe(row.setting)), Cell(series.heading(row.metric)), _estimate(row.metric, row.then, row.form),
            _estimate(row.metric, row.now, row.form), _signed(row.difference, row.form),
            Cell(str(row.seeds), float(row.seeds)),
        ]
        for row in against.rows
    ]  # fmt: skip
    return Table("against the older sweep", header, rows, frozenset(header[2:]))


def _figures(found: Collected) -> tuple[dict[str, Any], dict[str, Table], list[str]]:
    """(numbers of the figures for the script; the same as tables; notes)."""
    frontier, points = series.frontier_frame(found), series.frontier_points(found)
    curves, notes = series.exact_frontiers(found)
    notes += series.metrics_notes(found)
    kind = frontier["kind"].iloc[0] if len(frontier) else ""
    exact = kind == "exact"
    strength = found.strength
    metrics = {name: series.metric_frame(found, name) for name in series.strength_metrics(found)}
    by_strength = {name: frame for name, frame in metrics.items() if strength and len(frame)}
    learned = series.curves_frame(found)
    rates = series.winrates_frame(found)
    moved = series.displacement_frame(found)
    gaps = series.gap_frame(found)
    if len(points) and (missing := len(found.done) - len(points)):
        notes.append(
            f"{counted(missing, 'finished run')} without KL and reward: left out of the figure of reward and KL."
        )
    lines = list(dict.fromkeys(found.line(point) for point in found.points))
    figures = {
        "lines": [_safe(line) for line in lines],
        "strength_axis": _safe(strength or ""),
        "frontier": {
            "kind": _safe(kind),
            "kl": "exact KL(policy ‖ reference), nats per answer" if exact else "KL from samples, nats per answer",
            "reward": _safe(series.reward_heading(kind)),
            "start": _rounded(series.start_reward(found)),
            "curves": [{name: [_rounded(v) for v in curve[name]] for name in ("kl", "reward")} for curve in curves]
            if exact
            else [],
            "settings": _records(frontier),
            "points": _records(points),
        },
        "strength": [
            {"name": name, "label": series.heading(name), "apart": _apart(name, lines), "rows": _records(frame)}
            for name, frame in by_strength.items()
        ],
        "curves": {
            "metrics": [
                {"name": name, "label": CURVES[name], "apart": _apart(name, lines)}
                for name in learned["metric"].unique()
            ],
            "axes": _curve_axes(found),
            "settings": _curve_settings(found, learned),
            "most_bands": series.MOST_BANDS,
        },
        "forest": _records(rates),
        "displacement": _records(moved),
        "gap": _records(gaps),
    }
    tables = _figure_tables(frontier, by_strength, rates, moved, strength or "")
    return figures, tables | _gap_table(gaps), notes


def _gap_table(gaps: pd.DataFrame) -> dict[str, Table]:
    """The parts of the gap: one row for each setting, one column for each part."""
    if gaps.empty:
        return {}
    parts, rows = list(dict.fromkeys(gaps["part"])), []
    for setting, own in gaps.groupby("setting", sort=False):
        known = {str(row["part"]): row for row in _rows(own)}
        unbounded = int(own["unbounded"].max())
        rows.append(
            [Cell(_safe(setting)), *(_triple(known[part], "value") if part in known else Cell("") for part in parts),
             Cell(f"{unbounded} of {int(own['n'].max())}", float(unbounded))]
        )  # fmt: skip
    header = ["setting", *parts, "runs whose loss has no minimum"]
    return {"gap": Table("parts of the gap", header, rows, _numeric(header, rows))}


def _apart(metric: str, lines: Sequence[str]) -> bool:
    """Whether each line needs axes of its own: losses of different objectives have different scales."""
    return metric.endswith("/loss") and len(lines) > 1


def _curve_axes(found: Collected) -> list[str]:
    """The axes that may choose the colours of the curves: those with several values."""
    return [_safe(a) for a in found.setting_axes if len({point[a] for point in found.points}) > 1]


def _curve_settings(found: Collected, learned: pd.DataFrame) -> list[dict[str, Any]]:
    first = {name: points[0] for name, points in series.settings_points(found).items()}
    axes = [a for a in found.setting_axes if len({point[a] for point in found.points}) > 1]
    settings = []
    for name, part in learned.groupby("setting", sort=False):
        curves = {
            metric: {
                "x": [_rounded(v) for v in rows["step"]], "y": [_rounded(v) for v in rows["value"]],
                **({end: [_rounded(v) for v in rows[end]] for end in ("low", "high")} if (rows["n"] > 1).any() else {}),
            }
            for metric, rows in part.groupby("metric", sort=False)
        }  # fmt: skip
        point = first[str(name)]
        values = [_safe(point[axis]) for axis in axes]
        settings.append({"name": _safe(name), "line": _safe(part["line"].iloc[0]), "values": values, "curves": curves})
    return settings


def _figure_tables(
    frontier: pd.DataFrame, by_strength: Mapping[str, pd.DataFrame], rates: pd.DataFrame, moved: pd.DataFrame, axis: str
) -> dict[str, Table]:
    """The numbers of each figure as a table, for the Markdown and for readers who can't see a figure."""
    tables = {}
    if len(frontier):
        rows = [
            [Cell(_safe(r["setting"])), _triple(r, "kl"), _triple(r, "reward"), Cell(r["over"])]
            for r in _rows(frontier)
        ]
        tables["frontier"] = Table("reward and KL", ["setting", "KL (nats)", "reward", "interval over"], rows)
    if by_strength:
        rows = [
            [
                Cell(series.heading(name)),
                Cell(_safe(r["line"])),
                _number(r["strength"], "g"),
                _triple(r, "value"),
                Cell(r["over"]),
            ]
            for name, frame in by_strength.items()
            for r in _rows(frame.sort_values(["line", "strength"], kind="stable"))
        ]
        tables["strength"] = Table(
            "metric by strength", ["metric", "method", _safe(axis), "value", "interval over"], rows
        )
    if len(rates):
        rows = [
            [Cell(_safe(r[key])) for key in ("setting", "judge", "baseline")]
            + [Cell(_safe(r["file"] or "held-out")), _triple(r, "value"), _number(r["n"], ".0f")]
            + [_number(r["prompts"] or None, ".0f"), Cell(r["over"])]
            for r in _rows(rates)
        ]
        header = ["setting", "judge", "against", "prompts", "win-rate", "seeds", "number of prompts", "interval over"]
        tables["forest"] = Table("win-rates", header, rows)
    if len(moved):
        rows = [
            [Cell(_safe(r["setting"])), *(_triple(r, part) for part in ("chosen", "rejected", "length"))]
            for r in _rows(moved)
        ]
        header = ["setting", "log-ratio of chosen (nats)", "log-ratio of rejected (nats)", "tokens of an answer"]
        tables["displacement"] = Table("displacement and length", header, rows)
    return {
        name: Table(table.name, table.header, table.rows, _numeric(table.header, table.rows))
        for name, table in tables.items()
    }


def _triple(row: Mapping[str, Any], name: str) -> Cell:
    low, high = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
    value, ends = row[name], (row[low], row[high])
    if _plain(value) is None:
        return Cell("")
    interval = f" [{ends[0]:.3f}, {ends[1]:.3f}]" if all(_plain(end) is not None for end in ends) else ""
    return Cell(f"{value:.3f}{interval}", value, _plain(ends[0]), _plain(ends[1]))


def _mean(row: Mapping[str, Any] | None, form: str) -> Cell:
    if row is None:
        return Cell("")
    value, low, high = (row[end] for end in ("value", "low", "high"))
    return Cell(mean_text(value, low, high, form, row["over"]), _plain(value), _plain(low), _plain(high))


def _estimate(metric: str, found: Estimate | None, form: str) -> Cell:
    """The cell of a mean over seeds. metric: empty for a difference."""
    if found is None or found.n == 0 or _plain(found.value) is None:
        return Cell("")
    low, high = ends(metric, found.low, found.high)
    return Cell(mean_text(found.value, low, high, form), found.value, _plain(low), _plain(high))


def _signed(found: Estimate, form: str) -> Cell:
    text = f"{found.value:+{form}}" + (f" [{found.low:+{form}}, {found.high:+{form}}]" if found.n > 1 else "")
    return Cell(text, found.value, _plain(found.low), _plain(found.high))


def _number(value: Any, form: str) -> Cell:
    plain = _plain(value)
    return Cell("") if plain is None else Cell(format(plain, form), plain)


def _text_or_number(text: str) -> Cell:
    try:
        return Cell(_safe(text), _plain(float(text)))
    except ValueError:
        return Cell(_safe(text))


def _numeric(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> frozenset[str]:
    """Headings whose cells with text all are numbers."""
    columns = zip(*rows, strict=True) if rows else ()
    numeric = (all(c.value is not None for c in cells if c.text) and any(c.text for c in cells) for cells in columns)
    return frozenset(name for name, is_number in zip(header, numeric, strict=False) if is_number)


def _rows(frame: pd.DataFrame) -> Iterable[dict[str, Any]]:
    return frame.to_dict("records")  # type: ignore[return-value]


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as JSON takes them: no NaN, seven digits, visible texts."""
    return [
        {key: _safe(value) if isinstance(value, str) else _rounded(value) for key, value in row.items()}
        for row in _rows(frame)
    ]


def _rounded(value: Any) -> float | None:
    plain = _plain(value)
    return None if plain is None else float(f"{plain:.7g}")


def _plain(value: Any) -> float | None:
    """A finite number; None for anything else."""
    number = float(value) if isinstance(value, int | float) else math.nan
    return number if math.isfinite(number) else None


def _safe(text: object, most: int = 300) -> str:
    return redacted(one_line(text, most))
