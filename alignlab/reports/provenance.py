"""Where the numbers of a sweep come from: code, machine, data, budgets, and the command that makes it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from alignlab.redaction import redacted_override
from alignlab.reports.collect import Collected
from alignlab.reports.tables import objectives
from alignlab.runs.query import Record
from alignlab.spelling import counted

# Overrides that belong to the place of a run and not to its numbers.
_PLACE = ("output_root=", "++sweep.name=", "hydra.sweep", "hydra.run")


def commands(found: Collected) -> list[str]:
    """Command lines that make the runs again: one for a full grid, else one for each point."""
    typed = {point["run"]: _typed(found.records[point["run"]]) for point in found.points}
    known = [words for words in typed.values() if words]
    if not known:
        return []
    axes = [axis for axis in found.axes if all(_has(words, axis) for words in known)]
    common = [word for word in known[0] if all(word in words for words in known) and _key(word) not in axes]
    values = {axis: list(dict.fromkeys(p[axis] for p in found.points)) for axis in axes}
    shape = {tuple(p[axis] for axis in axes) for p in found.points}
    if axes and len(known) == len(typed) and shape == set(product(*values.values())):
        own = {word for words in known for word in words if word not in common and _key(word) not in axes}
        if not own:
            return [_line([*common, "-m", *(f"{axis}={','.join(map(_value, values[axis]))}" for axis in axes)])]
    return [_line(words) for words in dict.fromkeys(tuple(words) for words in known)]


def facts(found: Collected) -> list[tuple[str, str]]:
    """(what, value) of everything that decides or describes the runs, with counts where runs differ."""
    records = [record for record in found.records.values() if record]
    rows: list[tuple[str, str]] = []
    named = [record for record in records if (record.get("objective") or {}).get("name")]
    rows += [("objective", line) for line in objectives(named, found.axes)]
    for name, path in _FACTS:
        values = _counted(_inner(record, path) for record in records)
        if values:
            rows.append((name, values))
    names = dict.fromkeys(name for record in records for name in record.get("versions") or {})
    rows += [(name, _counted((record.get("versions") or {}).get(name) for record in records)) for name in names]
    times = sorted(str(record[key]) for record in records for key in ("started", "ended") if record.get(key))
    if times:
        rows.append(("from, to", f"{times[0]} to {times[-1]}"))
    return rows


_FACTS = (
    ("updates of a run", ("config", "trainer", "max_steps")),
    ("rows per update", ("config", "trainer", "batch_size")),
    ("learning rate", ("config", "optim", "lr")),
    ("training rows", ("data", "train", "rows")),
    ("held-out rows", ("data", "eval", "rows")),
    ("model", ("config", "model", "name")),
    ("weights of the reference", ("model", "reference_weights")),
    ("data", ("data", "fingerprint")),
    ("starts from", ("parent",)),
    ("reward model", ("reward",)),
    ("alignlab's revision", ("git",)),
    ("machine", ("machine", "platform")),
    ("processors", ("machine", "cpus")),
)


def _typed(record: Record) -> list[str]:
    """The words of the command line that made a run, without those of its place, and without keys."""
    words = [str(word) for word in record.get("overrides", [])]
    kept = [redacted_override(word) for word in words if not word.startswith(_PLACE)]
    last = {_key(word): place for place, word in enumerate(kept)}  # a later word replaces an earlier one
    return [word for place, word in enumerate(kept) if last[_key(word)] == place or _key(word) in ("-m",)]


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _has(words: Iterable[str], axis: str) -> bool:
    return any(_key(word) == axis for word in words)


def _value(text: str) -> str:
    """A value of an axis. A comma would begin the next value, so a text with one is quoted."""
    return f'"{text}"' if "," in text and not text.startswith(("[", "{", '"', "'")) else text


def _line(words: Sequence[str]) -> str:
    return shlex.join(["alignlab", "train", *words])


def _inner(record: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = record
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _counted(values: Iterable[Any]) -> str:
    """The different values, with the number of runs of each if there are several. Missing values do not count."""
    counts: dict[str, int] = {}
    for value in values:
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            counts[text] = counts.get(text, 0) + 1
    if len(counts) <= 1:
        return next(iter(counts), "")
    return ", ".join(f"{text} ({counted(number, 'run')})" for text, number in counts.items())
