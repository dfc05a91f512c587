"""What the page of a sweep must say, from the raw numbers of its runs. `check_page` walks over all of it.

A table, column, figure, entry of a figure, or sentence with a number that is not known here fails the check. So
whoever adds one to the page adds the code that computes it again.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import pytest

from alignlab.reports.page.words import WORDS
from alignlab.tracking.metrics import definition
from tests.reports.page_text import Cell, Page, Table, markdown_parts
from tests.reports.raw_numbers import (
    HEADINGS,
    NAN,
    NOT_DRAWN,
    Number,
    Raw,
    cut,
    metric_of,
    split,
    t_mean,
)
from tests.reports.said_oracle import (
    Compared,
    answers,
    at_budget,
    budgets_of_training,
    compared_by,
    comparisons,
    conclusions,
    configs_of,
    different_code,
    facts_line,
    first_answers,
    gain_of,
    heading_of,
    runs_in_words,
    sentences,
    shortened,
)

_FORMS = {"seconds": ".0f", "loss at start": ".4f", "eval loss": ".4f", "eval chosen log-ratio": ".2f"}
# Numbers that stand in the text of the template.
_STATIC = re.compile(r"95 %|at most 60 bins|At 0\.5,|\(W&B\)|lacks \d+ columns?")


def check_page(raw: Raw, html: str, markdown: str, older: Raw | None = None) -> None:
    """Compare every number of a page and its twin with the files of the runs."""
    page = Page(html)
    expected = {*sentences(raw, older), *_explanations(page)}
    _check_tables(raw, page, older)
    _check_figures(raw, page.figures)
    assert page.answer == answers(raw), (page.answer, answers(raw))
    wanted = [*conclusions(raw), *budgets_of_training(raw), *different_code(raw)]
    missing = [text for text in wanted if text not in {t for _, t in page.texts}]
    assert not missing, f"not on the page: {missing}; it says: {[t for s, t in page.texts if s in ('', 'settings')]}"
    unknown = [text for section, text in page.texts if not _is_known(raw, section, text, expected)]
    assert not unknown, f"no oracle for: {unknown}"
    _check_twin(raw, page, markdown, expected)


def _explanations(page: Page) -> Iterator[str]:
    """What words and columns mean: each column has the definition of the metric that it shows."""
    for word, meaning in WORDS:
        yield from (meaning, f"{word}: {meaning}")
    for heading in page.table("settings").header:
        with suppress(KeyError):  # an axis, or a comparison
            metric = metric_of(heading)
            meaning = f"{metric}: {definition(metric)}"
            yield from (meaning, f"{heading}: {meaning}")


def _is_known(raw: Raw, section: str, text: str, expected: set[str]) -> bool:
    """Whether a text has no number, or one that is computed here."""
    if not re.search(r"\d", _STATIC.sub("", text)) or text in expected:
        return True
    if found := re.fullmatch(r"(\d+) runs with their metrics", text):
        return int(found[1]) == len(raw.points)
    if section == "provenance" and text.startswith("alignlab train"):
        _check_commands(raw, text.splitlines())
        return True
    return bool(re.fullmatch(rf"{re.escape(facts_line(raw))} · made by alignlab [\w.+]+ at [\d-]+ [\d:]+ UTC", text))


# --- cells -----------------------------------------------------------------------------------------------------------
def fits(text: str, value: float, form: str) -> bool:
    """Whether a text shows a value in a format. Numerical errors may turn a last digit."""
    near = (value, value * (1 + 1e-6) + 1e-9, value * (1 - 1e-6) - 1e-9)
    return any(text in (format(v, form), format(v, form).replace("-0.000", "0.000")) for v in near)


def close(value: float | None, wanted: float) -> bool:
    if value is None or math.isnan(wanted):
        return value is None and math.isnan(wanted)
    return value == pytest.approx(wanted, rel=2e-5, abs=2e-6)


def check_number(cell: Cell, wanted: Number | None, form: str, style: str) -> None:
    """style: plus (v ± h), ends (v [low, high]), plain (v), signed (+v [+low, +high])."""
    if wanted is None:
        assert cell == Cell(""), (cell, "no number")
        return
    assert close(cell.value, wanted.value), (cell, wanted)
    assert close(cell.low, wanted.low), (cell, wanted)
    assert close(cell.high, wanted.high), (cell, wanted)
    sign = "+" if style == "signed" else ""
    texts = re.fullmatch(r"(\S+)(?: ± (\S+)| \[(\S+), (\S+)\])?", cell.text)
    assert texts, cell
    shown, half, low, high = texts.groups()
    assert fits(shown, wanted.value, sign + form), (cell, wanted)
    if math.isnan(wanted.low) or style == "plain":
        assert (half, low, high) == (None, None, None), (cell, wanted)
    elif style == "plus":
        assert fits(half or "", wanted.half, form), (cell, wanted)
    else:
        assert fits(low or "", wanted.low, sign + form), (cell, wanted)
        assert fits(high or "", wanted.high, sign + form), (cell, wanted)


# --- tables ----------------------------------------------------------------------------------------------------------
def _check_tables(raw: Raw, page: Page, older: Raw | None) -> None:
    checks = {
        "settings": lambda t: _check_settings(raw, t), "methods at common KLs": lambda t: _check_methods(raw, t),
        "reward and KL": lambda t: _check_frontier(raw, t), "parts of the gap": lambda t: _check_gap(raw, t),
        "metric by strength": lambda t: _check_by_strength(raw, t), "win-rates": lambda t: _check_forest(raw, t),
        "displacement and length": lambda t: _check_displacement(raw, t), "runs": lambda t: _check_runs(raw, t),
        "keys of the config that differ": lambda t: _check_differing(raw, t),
        "runs that are not done": lambda t: _check_failed(raw, t), "provenance": lambda t: _check_facts(raw, t),
        "against the older sweep": lambda t: _check_against(raw, older, t),
    }  # fmt: skip
    for table in page.tables:
        assert table.name in checks, f"no oracle for the table {table.name!r}"
        checks[table.name](table)
    wanted = {"settings", "keys of the config that differ", "provenance", "runs", "metric by strength"}
    if raw.budgets:
        wanted.add("methods at common KLs")
    assert wanted <= {table.name for table in page.tables}


def _form(heading: str) -> str:
    return _FORMS.get(heading, ".3f")


def _style(number: Number | None) -> str:
    if number is None:
        return "plus"
    even = math.isclose(number.high - number.value, number.value - number.low, rel_tol=1e-6, abs_tol=1e-9)
    return "plus" if number.over.startswith("seeds") and (even or math.isnan(number.low)) else "ends"


def _check_settings(raw: Raw, table: Table) -> None:
    compared, word = comparisons(raw), "highest"
    assert [row[: len(raw.own)] for row in table.rows] == [
        [Cell(p[0][a], _number(p[0][a])) for a in raw.own] for p in raw.settings.values()
    ]
    for name, row in zip(raw.settings, table.records(), strict=True):
        for heading, cell in row.items():
            if heading in raw.own:
                continue
            if heading == "seeds":
                done, of = len(raw.done.get(name, [])), len(raw.settings[name])
                assert cell == Cell(str(done) if done == of else f"{done} of {of}", float(done))
            elif heading == f"difference to the {word}":
                _check_difference(cell, name, compared.get(name), word, _form(compared_by(raw)))
            elif heading in ("tied with it", "seeds to add"):
                assert cell.text == _tied(compared.get(name))[heading == "seeds to add"], (name, heading, cell)
            else:
                number = raw.number(name, metric_of(heading))
                check_number(cell, number, _form(heading), _style(number))
    shown = {
        h
        for h in table.header
        if h not in (*raw.own, "seeds", f"difference to the {word}", "tied with it", "seeds to add")
    }
    assert {metric_of(h) for h in shown} == {m for m in raw.metrics if _has_column(m)}


def _has_column(metric: str) -> bool:
    sampled = bool(split(metric)[1]) and not metric.endswith("/reference") and not metric.endswith("/se")
    return metric in HEADINGS.values() or sampled


def _check_difference(cell: Cell, name: str, found: Compared | None, word: str, form: str) -> None:
    if found is None:
        assert cell.text == ""
    elif found[0].startswith("best"):
        assert cell == Cell(word + found[0].removeprefix("best"), 0.0)
    elif found[1] is None or math.isnan(found[1].value):
        assert cell.text == "unknown", (name, cell)
    else:
        check_number(cell, found[1], form, "signed")


def _tied(found: Compared | None) -> tuple[str, str]:
    if found is None or found[0].startswith("best"):
        return "", ""
    if found[2] is None:
        return "unknown", "unknown"
    return ("yes", "-" if found[3] is None else str(found[3])) if found[2] else ("no", "")


def _check_methods(raw: Raw, table: Table) -> None:
    rows = iter(table.records())
    for kl, rewards in raw.budgets:
        best, compared = at_budget(raw, rewards)
        for method, of in rewards.items():
            row = next(rows)
            assert close(row["at KL (nats)"].value, kl)
            assert fits(row["at KL (nats)"].text, kl, ".3g")
            assert row["method"].text == method
            assert row["seeds"] == Cell(str(len(of)), float(len(of)))
            assert raw.plane
            heading = heading_of(raw, raw.plane[1])
            number = cut(raw.plane[1], raw.interval(list(of.values())))
            check_number(row[heading], number, ".3f", _style(number))
            check_number(row["above the start"], gain_of(raw, method, of), ".3f", "plus")
            means = {m: np.mean([np.mean(v) for v in values.values()]) for m, values in rewards.items()}
            first = "best" if means[method] == max(means.values()) else "best that can be called best"
            told = (
                (first, None, None, None) if method == best else ("", *compared[method]) if method in compared else None
            )
            _check_difference(row["difference to the highest"], method, told, "highest", ".3f")
            assert (row["tied with it"].text, row["seeds to add"].text) == _tied(told), (method, row)
    assert next(rows, None) is None
    assert table.header[3] == heading_of(raw, raw.plane[1] if raw.plane else "")
    assert len(table.header) == 8


def _check_frontier(raw: Raw, table: Table) -> None:
    plane = raw.plane
    assert plane is not None
    assert table.header == ["setting", "KL (nats)", "reward", "interval over"]
    assert [row[0].text for row in table.rows] == list(raw.done)
    for row in table.records():
        for heading, metric in (("KL (nats)", plane[0]), ("reward", plane[1])):
            number = raw.number(row["setting"].text, metric)
            check_number(row[heading], number, ".3f", "ends")
            assert number is not None
            assert row["interval over"].text == number.over, row


def _check_gap(raw: Raw, table: Table) -> None:
    assert [row[0].text for row in table.rows] == [n for n in raw.done if _parts(raw, n)]
    for row in table.records():
        parts = _parts(raw, row["setting"].text)
        named = list(dict.fromkeys(part for one in parts for part in one["parts"]))
        assert list(row)[1:-1] == named
        for part in named:
            check_number(row[part], t_mean([one["parts"][part] for one in parts]), ".3f", "ends")
        unbounded = sum(one["unbounded"] for one in parts)
        assert row["runs whose loss has no minimum"] == Cell(f"{unbounded} of {len(parts)}", float(unbounded))


def _parts(raw: Raw, setting: str) -> list[dict[str, Any]]:
    files = [raw.root / "runs" / run / "gap.json" for run in raw.done.get(setting, [])]
    return [json.loads(file.read_text()) for file in files if file.is_file()]


def _drawn(raw: Raw) -> dict[str, list[str]]:
    """Metric against strength -> its settings, by line and strength."""
    metrics = [m for m in raw.metrics if _has_column(m) and m not in NOT_DRAWN]
    settings = sorted(raw.done, key=lambda n: (_line(raw, n), float(raw.settings[n][0]["strength"])))
    return {m: [n for n in settings if raw.number(n, m) is not None] for m in metrics}


def _line(raw: Raw, setting: str) -> str:
    """The name of a setting's line: its axes but the strength."""
    point, axes = raw.settings[setting][0], [a for a in raw.own if a != "strength"]
    return (
        str(point["objective"]) if axes == ["objective"] else ", ".join(f"{a.split('.')[-1]} {point[a]}" for a in axes)
    )


def _check_by_strength(raw: Raw, table: Table) -> None:
    drawn = _drawn(raw)
    rows = table.records()
    assert len(rows) == sum(map(len, drawn.values()))
    for heading, group in itertools.groupby(rows, key=lambda row: row["metric"].text):
        metric = metric_of(heading)
        for name, row in zip(drawn.pop(metric), group, strict=True):
            number = raw.number(name, metric)
            assert number is not None
            assert row["method"].text == _line(raw, name)
            assert row["strength"].value == float(raw.settings[name][0]["strength"])
            check_number(row["value"], number, ".3f", "ends")
            assert row["interval over"].text == number.over, row
    assert not drawn
    assert table.header == ["metric", "method", "strength", "value", "interval over"]


def _rates(raw: Raw) -> list[tuple[str, str, str, str, Number]]:
    """(setting, judge, baseline, file of prompts, win-rate), held-out prompts first."""
    found = []
    for name, runs in raw.done.items():
        keys = dict.fromkeys(
            (j, b, e.file) for run in runs for e in raw.evaluations.get(run, []) for j, b in e.compared
        )
        for judge, baseline, file in keys:
            metric = f"winrate/{judge}/{baseline}"
            evaluated = [
                next(e for e in raw.evaluations[run] if e.file == file and (judge, baseline) in e.compared)
                for run in runs
            ]
            found.append((name, judge, baseline, file, raw.sampled(evaluated, metric)))
        if (exact := raw.number(name, "exact/winrate")) is not None:
            found.append((name, "gold (exact)", "reference", "", exact))
    order = list(dict.fromkeys((f, j, b) for _, j, b, f, _ in found))
    order.sort(key=lambda key: key[0])
    return sorted(found, key=lambda r: order.index((r[3], r[1], r[2])))


def _check_forest(raw: Raw, table: Table) -> None:
    assert table.header == [
        "setting",
        "judge",
        "against",
        "prompts",
        "win-rate",
        "seeds",
        "number of prompts",
        "interval over",
    ]
    for row, (setting, judge, baseline, file, rate) in zip(table.rows, _rates(raw), strict=True):
        assert [cell.text for cell in row[:4]] == [setting, judge, baseline, file or "held-out"]
        check_number(row[4], rate, ".3f", "ends")
        assert row[5] == Cell(str(rate.n), float(rate.n))
        prompts = (
            [Cell(str(rate.prompts), float(rate.prompts))]
            if rate.prompts
            else [Cell(""), Cell("1", 1.0), Cell(str(rate.n), float(rate.n))]
        )
        assert row[6] in prompts, row
        assert row[7].text == rate.over, row


def _moved(raw: Raw, setting: str) -> dict[str, Number | None]:
    """Log-ratios of chosen and rejected answers, and tokens of the policy's answers, over seeds."""
    numbers = {part: raw.number(setting, f"eval/logratios/{part}") for part in ("chosen", "rejected")}
    lengths = [
        float(e[0].rows["policy/tokens"].mean())
        for run in raw.done[setting]
        if (e := [x for x in raw.evaluations.get(run, []) if not x.file])
    ]
    return {**numbers, "length": t_mean(lengths) if lengths else None}


def _check_displacement(raw: Raw, table: Table) -> None:
    headings = {
        "log-ratio of chosen (nats)": "chosen",
        "log-ratio of rejected (nats)": "rejected",
        "tokens of an answer": "length",
    }
    assert table.header == ["setting", *headings]
    shown = [name for name in raw.done if any(_moved(raw, name).values())]
    for name, row in zip(shown, table.records(), strict=True):
        assert row["setting"].text == name
        for heading, part in headings.items():
            check_number(row[heading], _moved(raw, name)[part], ".3f", "ends")


def _check_runs(raw: Raw, table: Table) -> None:
    for point, row in zip(raw.points, table.records(), strict=True):
        for heading, cell in row.items():
            if heading in ("status", "run"):
                assert cell.text == (point["run"] if heading == "run" else raw.status(point["run"]))
            elif heading in raw.axes:
                assert cell == Cell(point[heading], _number(point[heading]))
            else:
                value = raw.summary(point["run"]).get(metric_of(heading))
                check_number(cell, None if value is None else Number(value), _form(heading), "plain")
    assert {metric_of(h) for h in table.header if h not in (*raw.axes, "status", "run")} == _columns(raw)


def _columns(raw: Raw) -> set[str]:
    """Metrics that have a column in the table of runs: all but the win-rate of the lab."""
    return {m for m in raw.metrics if _has_column(m)} - {"exact/winrate"}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _differing(raw: Raw) -> list[str]:
    configs = configs_of(raw)
    keys = dict.fromkeys(key for config in configs.values() for key in config)
    return [key for key in keys if len({config.get(key, "") for config in configs.values()}) > 1]


def _check_differing(raw: Raw, table: Table) -> None:
    configs = configs_of(raw)
    assert [row[0].text for row in table.rows] == _differing(raw)
    for key, values in ((row[0].text, row[1].text) for row in table.rows):
        counts = Counter(config.get(key, "(none)") for config in configs.values())
        assert len(counts) <= 12, "oracle: many values"
        assert values == ", ".join(f"{value} ({runs_in_words(n)})" for value, n in counts.most_common()), key


def _check_failed(raw: Raw, table: Table) -> None:
    lost = [point for point in raw.points if raw.status(point["run"]) != "done"]
    for point, row in zip(lost, table.rows, strict=True):
        status = raw.status(point["run"])
        reason = raw.records[point["run"]].get("reason") or (
            "not begun" if status == "not run" else "no reason recorded"
        )
        named = ", ".join(f"{axis} {point[axis]}" for axis in raw.axes)
        assert [cell.text for cell in row] == [named, status, reason, point["run"]]


_FACTS = {
    "updates of a run": "config.trainer.max_steps", "rows per update": "config.trainer.batch_size",
    "learning rate": "config.optim.lr", "training rows": "data.train.rows", "held-out rows": "data.eval.rows",
    "model": "config.model.name", "weights of the reference": "model.reference_weights", "data": "data.fingerprint",
    "starts from": "parent", "reward model": "reward", "alignlab's revision": "git",
    "machine": "machine.platform", "processors": "machine.cpus",
}  # fmt: skip


def _inner(record: Any, path: str) -> Any:
    for key in path.split("."):
        record = record.get(key) if isinstance(record, dict) else None
    return record


def _check_facts(raw: Raw, table: Table) -> None:
    records = [record for record in raw.records.values() if record]
    versions = {name for record in records for name in record.get("versions", {})}
    for what, value in ((row[0].text, row[1].text) for row in table.rows):
        if what == "objective":
            said = re.fullmatch(r"(\w+)(?: \(dialect: (.*?)\))?(?:: (.*))?", value)
            assert said, value
            own = [r["objective"] for r in records if r["objective"]["name"] == said[1]]
            assert said[2] == (own[0].get("spoken") or "none of those known" if own[0].get("dialect") else None), value
            for field in (said[3] or "").split(", "):
                key, _, values = field.partition(" ")
                assert values.split(" | ") == list(dict.fromkeys(str(o[key]) for o in own)), value
            continue
        if what == "from, to":
            times = sorted(r[key] for r in records for key in ("started", "ended") if r.get(key))
            assert value == f"{times[0]} to {times[-1]}"
            continue
        path = _FACTS.get(what) or (f"versions.{what}" if what in versions else "")
        assert path, f"no oracle for the fact {what!r}"
        found = [r["versions"].get(what) if path.startswith("versions.") else _inner(r, path) for r in records]
        counts = Counter(v if isinstance(v, str) else json.dumps(v) for v in found if v is not None)
        wanted = (
            ", ".join(f"{text} ({runs_in_words(n)})" for text, n in counts.items())
            if len(counts) > 1
            else next(iter(counts))
        )
        assert value == wanted, what


def _check_commands(raw: Raw, lines: Sequence[str]) -> None:
    """The commands make the points again: all of them in one grid, or each with the words that made it."""
    made = {
        run: [w for w in r["overrides"] if not w.startswith(("output_root=", "++sweep.name=", "hydra."))]
        for run, r in raw.records.items()
        if r
    }
    if " -m " not in lines[0]:
        assert [shlex.split(line)[2:] for line in lines[:20]] == list(made.values())[:20]
        return
    (line,) = lines
    common, _, grid = line.partition(" -m ")
    axes = dict(word.split("=", 1) for word in shlex.split(grid))
    assert set(axes) == set(raw.axes)
    assert list(itertools.product(*(v.split(",") for v in axes.values()))) == [
        tuple(p[a] for a in axes) for p in raw.points
    ]
    for words in made.values():
        assert shlex.split(common)[2:] == [w for w in words if w.partition("=")[0] not in axes]


_OLD_LEFT_OUT = ("start/loss", "time/train_seconds", "exact/frontier_reward")


def _check_against(raw: Raw, older: Raw | None, table: Table) -> None:
    assert older is not None
    wanted = {}
    for name in (n for n in raw.done if n in older.done):
        for metric in [m for h, m in HEADINGS.items() if m not in (*_OLD_LEFT_OUT, "exact/winrate")]:
            now, then = (
                {of.seed[run]: of.summary(run)[metric] for run in of.done[name] if metric in of.summary(run)}
                for of in (raw, older)
            )
            if now and then:
                wanted[name, metric] = now, then
    for row in table.records():
        heading = row["metric"].text
        now, then = wanted.pop((row["setting"].text, metric_of(heading)))
        for name, values in (("then", then), ("now", now)):
            number = cut(metric_of(heading), t_mean(list(values.values())))
            check_number(row[name], number, _form(heading), _style(number))
        shared = [seed for seed in now if seed in then]
        paired = (
            t_mean([now[seed] - then[seed] for seed in shared])
            if len(shared) > 1
            else Number(t_mean(list(now.values())).value - t_mean(list(then.values())).value)
        )
        check_number(row["difference"], paired, _form(heading), "signed")
        assert row["seeds in common"] == Cell(str(len(shared)), float(len(shared)))
    assert not wanted


# --- figures ---------------------------------------------------------------------------------------------------------
def _check_figures(raw: Raw, figures: dict[str, Any]) -> None:
    checks = {
        "lines": _check_lines, "strength_axis": lambda raw, axis: _same(axis, "strength"), "frontier": _figure_frontier,
        "strength": _figure_strength, "curves": _figure_curves, "forest": _figure_forest,
        "displacement": _figure_displacement, "gap": _figure_gap, "completions": _figure_completions,
        "runs": _figure_runs,
    }  # fmt: skip
    assert figures.keys() == checks.keys(), "a figure without an oracle"
    for name, check in checks.items():
        check(raw, figures[name])


def _same(one: Any, other: Any) -> None:
    assert one == other


def _check_lines(raw: Raw, lines: list[str]) -> None:
    assert lines == list(dict.fromkeys(_line(raw, name) for name in raw.settings))


def _check_row(raw: Raw, row: dict[str, Any], name: str, numbers: Mapping[str, Number | None], **more: Any) -> None:
    """An entry of a figure: its setting, and numbers with keys <part>, <part>_low, <part>_high (value: low, high)."""
    wanted: dict[str, Any] = {
        "setting": name,
        "line": _line(raw, name),
        "strength": float(raw.settings[name][0]["strength"]),
        **more,
    }
    for part, number in numbers.items():
        start = "" if part == "value" else f"{part}_"
        for key, end in ((part, "value"), (f"{start}low", "low"), (f"{start}high", "high")):
            value = NAN if number is None else getattr(number, end)
            assert close(row[key], value), (row, key, value)
            wanted[key] = row[key]
    assert row == wanted


def _figure_frontier(raw: Raw, figure: dict[str, Any]) -> None:
    plane = raw.plane
    keys = {"kind", "kl", "reward", "start", "curves", "settings", "points"}
    assert figure.keys() == keys
    if plane is None:
        assert (figure["settings"], figure["points"], figure["curves"], figure["start"]) == ([], [], [], None)
        return
    exact = plane[0] == "exact/kl"
    judge = plane[1].split("/")[2] if not exact else ""
    kind = "exact" if exact else f"{'score' if 'score' in plane[1] else 'win-rate'} by {judge}"
    assert figure["kind"] == kind
    assert figure["reward"] == ("exact expected reward" if exact else f"mean {kind}" if "score" in kind else kind)
    assert figure["kl"].startswith("exact KL" if exact else "KL from samples")
    runs = [run for of in raw.done.values() for run in of]
    starts = [raw.summary(run)[plane[2]] for run in runs]
    assert close(figure["start"], float(np.mean(starts)))
    for row, name in zip(figure["settings"], raw.done, strict=True):
        numbers = {"kl": raw.number(name, plane[0]), "reward": raw.number(name, plane[1])}
        reward = numbers["reward"]
        assert reward is not None
        _check_row(raw, row, name, numbers, kind=kind, n=reward.n, over=reward.over)
    for row, run in zip(figure["points"], runs, strict=True):
        name = next(n for n, of in raw.done.items() if run in of)
        kl, reward = (raw.summary(run)[m] for m in plane[:2])
        assert close(row.pop("kl"), kl)
        assert close(row.pop("reward"), reward)
        assert row == {
            "setting": name,
            "line": _line(raw, name),
            "strength": float(raw.settings[name][0]["strength"]),
            "run": run,
        }
    if not exact:
        assert figure["curves"] == []
        return
    longest: dict[str, str] = {}
    for run in runs:
        of = json.dumps([raw.records[run].get("model"), raw.summary(run)["exact/reward_reference"]])
        if of not in longest or raw.summary(run)["exact/kl"] >= raw.summary(longest[of])["exact/kl"]:
            longest[of] = run
    for curve, run in zip(figure["curves"], longest.values(), strict=True):
        stored = json.loads((raw.root / "runs" / run / "frontier.json").read_text())
        assert curve == {part: [pytest.approx(v, rel=1e-5) for v in stored[part]] for part in ("kl", "reward")}


def _figure_strength(raw: Raw, figure: list[dict[str, Any]]) -> None:
    drawn = _drawn(raw)
    for one in figure:
        metric = one["name"]
        assert metric_of(one["label"]) == metric
        assert one["apart"] == (metric == "eval/loss")
        assert one.keys() == {"name", "label", "apart", "rows"}
        named = sorted(drawn.pop(metric), key=list(raw.done).index)
        for row, name in zip(one["rows"], named, strict=True):
            number = raw.number(name, metric)
            assert number is not None
            _check_row(raw, row, name, {"value": number}, n=number.n, over=number.over)
    assert not drawn


_CURVES = {
    "train/loss": "training loss", "train/logratios/margins": "log-ratio margin (nats)",
    "train/rewards/accuracies": "training accuracy", "train/logratios/chosen": "log-ratio of chosen answers (nats)",
    "train/logratios/rejected": "log-ratio of rejected answers (nats)", "eval/loss": "held-out loss",
    "eval/pairs/accuracy": "held-out pair accuracy", "eval/pairs/margin": "held-out pair margin (nats)",
}  # fmt: skip


def _figure_curves(raw: Raw, figure: dict[str, Any]) -> None:
    assert figure.keys() == {"metrics", "axes", "settings", "most_bands"}
    assert figure["most_bands"] == 4
    assert figure["axes"] == [a for a in raw.own if len({p[a] for p in raw.points}) > 1]
    for metric in figure["metrics"]:
        assert metric == {
            "name": metric["name"],
            "label": _CURVES[metric["name"]],
            "apart": metric["name"].endswith("/loss"),
        }
    assert [one["name"] for one in figure["settings"]] == list(raw.done)
    for one in figure["settings"]:
        name = one["name"]
        assert one.keys() == {"name", "line", "values", "curves"}
        assert one["line"] == _line(raw, name)
        assert one["values"] == [raw.settings[name][0][a] for a in figure["axes"]]
        assert set(one["curves"]) == {m for m in _CURVES if len(raw.curve(name, m))}
        for metric, curve in one["curves"].items():
            wanted = raw.curve(name, metric).rename(columns={"step": "x", "value": "y"})
            if wanted["low"].isna().all():
                wanted = wanted[["x", "y"]]
            assert curve.keys() == set(wanted)
            shown = pd.DataFrame(curve).astype(float)[list(wanted)]
            np.testing.assert_allclose(shown, wanted, rtol=1e-5, atol=2e-6, err_msg=f"{name} {metric}")


def _figure_forest(raw: Raw, figure: list[dict[str, Any]]) -> None:
    for row, (setting, judge, baseline, file, rate) in zip(figure, _rates(raw), strict=True):
        prompts = {"prompts": row["prompts"]}
        assert row["prompts"] in ([rate.prompts] if rate.prompts else [0, None, 1, rate.n]), row
        _check_row(
            raw,
            row,
            setting,
            {"value": rate},
            judge=judge,
            baseline=baseline,
            file=file,
            n=rate.n,
            over=rate.over,
            **prompts,
        )


def _figure_displacement(raw: Raw, figure: list[dict[str, Any]]) -> None:
    shown = [name for name in raw.done if any(_moved(raw, name).values())]
    for row, name in zip(figure, shown, strict=True):
        _check_row(raw, row, name, _moved(raw, name))


def _figure_gap(raw: Raw, figure: list[dict[str, Any]]) -> None:
    rows = iter(figure)
    for name in raw.done:
        parts = _parts(raw, name)
        for part in dict.fromkeys(part for one in parts for part in one["parts"]):
            number = t_mean([one["parts"][part] for one in parts])
            unbounded = sum(one["unbounded"] for one in parts)
            _check_row(
                raw, next(rows), name, {"value": number}, part=part, n=number.n, over=number.over, unbounded=unbounded
            )
    assert next(rows, None) is None


def _scorer(raw: Raw) -> str:
    names = [c.split("/")[2] for rows in first_answers(raw).values() for c in rows if c.startswith("policy/score/")]
    return names[0] if names else ""


def _figure_completions(raw: Raw, figure: dict[str, Any]) -> None:
    keys = {"columns", "prompts", "meaning", "several_judges", "baseline", "judge", "left_out"}
    assert figure.keys() == keys
    answered, judge = first_answers(raw), _scorer(raw)
    assert [column["setting"] for column in figure["columns"]] == list(answered)
    assert figure["judge"] == judge
    prompts = {row["prompt"]: row for row in figure["prompts"]}
    first = next(iter(answered.values()), pd.DataFrame())
    assert len(figure["prompts"]) == len(first), "oracle: some prompts are not shown"
    changes = [row["change"] for row in figure["prompts"]]
    assert changes == sorted(changes, reverse=True)
    for prompt, about in first.iterrows():
        row = prompts[shortened(about["prompt"])]
        assert row.keys() == {"prompt", "before", "answers", "change", "disagreement"}
        moved, spreads, scores = [], [], []
        before = {
            "text": shortened(about["reference/answer"]),
            "tokens": about["reference/tokens"],
            "ended": bool(about["reference/ended"]),
        }
        theirs = about[f"reference/score/{judge}"] if judge else None
        assert row["before"] == {**before, "score": None if theirs is None else pytest.approx(theirs)}
        for answer, rows in zip(row["answers"], answered.values(), strict=True):
            own = rows.loc[prompt]
            score = own[f"policy/score/{judge}"] if judge else None
            wanted = {
                "text": shortened(own["policy/answer"]),
                "tokens": own["policy/tokens"],
                "ended": bool(own["policy/ended"]),
            }
            assert answer == {**wanted, "score": None if score is None else pytest.approx(score)}
            if score is not None:
                moved.append(abs(score - own[f"reference/score/{judge}"]))
                scores.append(score)
            else:
                moved.append(abs(np.sum(own["policy/policy_logps"]) - np.sum(own["policy/reference_logps"])))
            verdicts = [
                np.nanmean([own[f"reference/{o}/{j}"] for o in ("first", "second") if f"reference/{o}/{j}" in rows])
                for j in {c.split("/")[2] for c in rows if c.startswith("reference/first/") and not pd.isna(own[c])}
            ]  # fmt: skip
            if len(verdicts) > 1:
                spreads.append(max(verdicts) - min(verdicts))
        assert close(row["change"], float(np.mean(moved)))
        apart = float(np.mean(spreads)) if spreads else float(np.std(scores)) if len(scores) > 1 else NAN
        assert close(row["disagreement"], apart), row


def _figure_runs(raw: Raw, figure: dict[str, Any]) -> None:
    assert figure.keys() == {"keys", "metrics", "runs"}
    assert figure["keys"] == _differing(raw)
    metrics, configs = [metric_of(heading) for heading in figure["metrics"]], configs_of(raw)
    assert set(metrics) == _columns(raw)
    points = [p for p in raw.points if p["run"] in configs]
    for one, point in zip(figure["runs"], points, strict=True):
        run = point["run"]
        assert one.keys() == {"id", "name", "values", "numbers"}
        assert (one["id"], one["name"]) == (run, ", ".join(f"{a} {point[a]}" for a in raw.axes))
        assert one["values"] == [configs[run].get(key) for key in figure["keys"]]
        for value, metric in zip(one["numbers"], metrics, strict=True):
            assert close(value, raw.summary(run).get(metric, NAN)), (run, metric)


# --- table.md and the twin
def _check_twin(raw: Raw, page: Page, markdown: str, expected: set[str]) -> None:
    """The twin has the tables of the page with the same cells, and no other number."""
    tables, lines = markdown_parts(markdown)
    shown = [[table.header, *[[cell.text for cell in row] for row in table.rows]] for table in page.tables]
    assert sorted(tables) == sorted(shown)
    unknown = [line for line in lines if not _is_known(raw, "", line.removeprefix("# "), expected)]
    assert not unknown, f"no oracle for: {unknown}"


def check_table_md(html: str, text: str) -> None:
    """The table of a sweep says the same as its page: means, comparisons and sentences."""
    page = Page(html)
    tables, lines = markdown_parts(text.partition("## Points")[0])
    names = ["settings", "methods at common KLs"][: len(tables)]
    for name, (header, *rows) in zip(names, tables, strict=True):
        shown = page.table(name)
        headings = [h for h in header if h in shown.header]
        assert len(headings) > 5
        for row, own in zip(rows, shown.records(), strict=True):
            texts = dict(zip(header, row, strict=True))
            assert [texts[h] for h in headings] == [own[h].text for h in headings]
            there = next((own[h].text for h in own if h.startswith("difference to the")), "")
            here = texts.get("difference to the best", "")
            assert here.replace("best", "") == re.sub("(highest|lowest)( that can be called best)?", "", there)
    said = {t for section, t in page.texts if section == "settings"}
    sentences_of_table = [
        line
        for line in lines
        if line.startswith(("±", "At a KL", "Above", "Comparisons leave", "Ties", "The methods have", "To have"))
    ]
    assert sentences_of_table
    assert set(sentences_of_table) <= said


def check_evaluation_md(html: str, text: str) -> None:
    """The evaluation of a sweep and its page have the same means with the same intervals, for each judge."""
    page = Page(html)
    theirs = {(row["objective"].text, row["strength"].text): row for row in page.table("settings").records()}
    tables = [one for one in markdown_parts(text)[0] if one[0][0] == "objective"]
    assert tables
    for header, *rows in tables:
        headings = [h for h in header if h.startswith(("sampled KL", "score by", "win-rate by"))]
        assert headings
        ours = {tuple(row[:2]): dict(zip(header, row, strict=True)) for row in rows}
        assert ours.keys() == theirs.keys()
        for setting, row in ours.items():
            shown = {heading: theirs[setting][heading].text for heading in headings}
            assert {heading: row[heading] for heading in headings} == shown, setting
    left_out = [line for _, line in page.texts if line.startswith("Comparisons leave out")]
    assert all(text.count(f"- {line}\n") == 1 for line in left_out)
