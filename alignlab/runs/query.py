"""Finds, filters and compares all runs of an output folder. Reads run.json, sweep.json and an index."""

from __future__ import annotations

import json
import logging
import math
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args

from alignlab.errors import ConfigError, DamagedError, Problem
from alignlab.integrity import read_record
from alignlab.runs.directory import RunDir, Status
from alignlab.runs.identity import flatten
from alignlab.runs.index import RunIndex, Stamp, stamp_of
from alignlab.spelling import correct_spelling

log = logging.getLogger(__name__)

Record = dict[str, Any]

# The status of a run whose record is damaged. All other statuses come from records.
DAMAGED = "damaged"
_STATUSES = (*get_args(Status), DAMAGED)

# Names that a filter may use besides keys of the config and metrics.
FACTS = ("id", "status", "objective", "sweep", "parent", "host", "attempt", "reason", "git")
_WHERE = "this command; nothing was done"
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le, ">=": operator.ge, "!=": operator.ne, "<": operator.lt, ">": operator.gt, "=": operator.eq,
}  # fmt: skip

# Records of sweeps that a warning has named because they can't be read.
_unreadable: set[Path] = set()

_FILTER = re.compile(r"(?P<key>[^<>=!]+)(?P<sign><=|>=|!=|<|>|=)(?P<values>.*)", re.DOTALL)


def runs_of(output_root: str | Path, *, listed: bool = False) -> list[Record]:
    """The state of every run below `output_root`, oldest first. `flat` holds its config with dotted keys.

    listed: all runs are shown, so a record that can't be read is named in a warning.
    """
    runs = [RunDir.of(output_root, name) for name in _names(output_root)]
    return _sorted(record for run in runs if (record := _read(run, warn=listed)))


def listed_runs(output_root: str | Path) -> list[Record]:
    """The same runs as `runs_of`, in the same order, from an index of their records if there are many.

    The records have `id`, `flat`, `summary` and the fields in `alignlab.runs.index.FIELDS` only.
    """
    names = _names(output_root)
    folder = Path(output_root) / "runs"
    index = RunIndex.read(folder)
    records = []
    for name in names:
        try:
            stamp = stamp_of(f"{folder}/{name}/run.json")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:  # `_read` says what is wrong
            stamp = None
        record = index.get(name, stamp) or _indexed(index, RunDir(folder / name), stamp)
        if record.get("status") in ("running", "queued"):
            record = RunDir(folder / name).current(record)
        records += [{**record, "id": name}] if record else []
    index.write(names)
    return _sorted(records)


def _indexed(index: RunIndex, run: RunDir, stamp: Stamp | None) -> Record:
    """The fields of a run that is not in the index. It is added, unless something is wrong with its record."""
    if stamp:
        index.add(run.id, stamp, run.record_file)
    return index.get(run.id, stamp) or _read(run)


def _names(output_root: str | Path) -> list[str]:
    """Names of the run directories below `output_root`. Raises ConfigError if it is no folder that can be read."""
    try:
        return [entry.name for entry in os.scandir(Path(output_root) / "runs") if not entry.name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        text = f"can't be read: {error.strerror} ({error.filename})"
        raise ConfigError([Problem("output_root", str(output_root), text)], where=_WHERE) from error
    except ValueError as error:  # a zero byte
        raise ConfigError([Problem("output_root", repr(output_root), f"is no path: {error}")], where=_WHERE) from error


def _read(run: RunDir, *, warn: bool = True) -> Record:
    """The state of a run from its record, with its `flat` config; empty if it has no record."""
    state = run.current(run.record(warn=warn)) or _damaged(run)
    known = {} if state.get("status") else {"status": DAMAGED, "reason": "its record has no status"}
    return {**state, **known, "id": run.id, "flat": flatten(state.get("config", {}))} if state else {}


def _sorted(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda record: (str(record.get("started") or "~"), str(record["id"])))


def _damaged(run: RunDir) -> Record:
    """The entry of a run whose record is damaged; empty if there is no record, or if it is not damaged."""
    reason = run.damage()
    return (
        {"status": DAMAGED, "reason": f"{reason}; to resume the run, type the command that made it again"}
        if reason
        else {}
    )


@dataclass(frozen=True)
class Filter:
    """One condition on a run: `key=a,b`, `key!=a`, `key<1`, ... In text, * and ? are wildcards."""

    key: str
    sign: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Parse `key<sign>values`. Raises ConfigError if `text` is not a condition."""
        found = _FILTER.fullmatch(text)
        if found is None:
            raise ConfigError(
                [Problem("filter", text, "is not a condition: key=value, key!=value, key<number", "status=failed")]
            )
        values = tuple(value.strip() for value in found["values"].split(","))
        if found["sign"] not in ("=", "!=") and (len(values) > 1 or not _is_number(values[0])):
            guess = f"{found['key'].strip()}{found['sign']}0.5"
            raise ConfigError(
                [Problem("filter", text, f"{found['sign']} needs exactly one number", guess)], where=_WHERE
            )
        unknown = [v for v in values if not any(fnmatchcase(status, v) for status in _STATUSES)]
        if found["key"].strip() == "status" and unknown:
            text = f"no run can be {', '.join(unknown)}; a status is one of {', '.join(_STATUSES)}"
            close = correct_spelling(unknown[0], _STATUSES)
            fix = f"status={close or '<one of these>'}"
            raise ConfigError([Problem("status", found["values"], text, fix)], where=_WHERE)
        return cls(found["key"].strip(), found["sign"], values)

    def keeps(self, record: Record, members: Mapping[str, set[str]]) -> bool:
        """Whether a run fulfils the condition.

        members: name of each sweep -> ids of its runs. The record of a run names only the sweep that made it.
        """
        if self.key == "sweep":
            names = [name for name, ids in members.items() if record["id"] in ids]
            hit = any(fnmatchcase(name, value) for name in names for value in self.values)
            return hit == (self.sign == "=")
        actual = value_of(record, self.key)
        if self.sign in ("=", "!="):
            return any(_equal(actual, value) for value in self.values) == (self.sign == "=")
        try:
            return _COMPARE[self.sign](float(actual), float(self.values[0]))
        except (OverflowError, TypeError, ValueError):
            return False


def select(records: Iterable[Record], filters: Sequence[Filter], output_root: str | Path) -> list[Record]:
    """Records that pass every filter. Raises one ConfigError for all keys that no run has."""
    records = list(records)
    unknown = [f for f in filters if records and not any(_has(record, f.key) for record in records)]
    if unknown:
        known = keys_of(records)

        def problem(wrong: Filter) -> Problem:
            guess = correct_spelling(wrong.key, known)
            text = f"no run has this key; use {', '.join(FACTS)}, a key of the config or the name of a metric"
            return Problem(wrong.key, None, text, f"{guess}{wrong.sign}{','.join(wrong.values)}" if guess else "")

        raise ConfigError(map(problem, unknown), where=_WHERE)
    members = dict(sweeps_of(output_root)) if any(f.key == "sweep" for f in filters) else {}
    return [record for record in records if all(f.keeps(record, members) for f in filters)]


def _has(record: Record, key: str) -> bool:
    return key in FACTS or key in record["flat"] or key in record.get("summary", {})


def keys_of(records: Iterable[Record]) -> list[str]:
    """All names that filters can use."""
    names = dict.fromkeys(FACTS)
    for record in records:
        names |= dict.fromkeys((*record["flat"], *record.get("summary", {})))
    return list(names)


def value_of(record: Record, key: str) -> Any:
    """A fact, a value of the config or a metric of the summary; None if the run does not have it."""
    if key == "objective":
        return record["id"].rpartition("-")[0]
    if key in FACTS:
        return record.get(key)
    return record["flat"].get(key, record.get("summary", {}).get(key))


def sweeps_of(output_root: str | Path) -> Iterator[tuple[str, set[str]]]:
    """(name, ids of its runs) of every sweep. A sweep whose record can't be read is left out, with one warning."""
    for file in sorted((Path(output_root) / "sweeps").glob("*/sweep.json")):
        try:
            sweep = read_record(file)
            found = str(sweep["name"]), {str(point["run"]) for point in sweep["points"]}
        except (OSError, DamagedError, KeyError, TypeError) as error:
            if file.absolute() not in _unreadable:
                _unreadable.add(file.absolute())
                log.warning("%s can't be read (%s); its sweep is left out", file, error)
            continue
        yield found


def find(records: Sequence[Record], wanted: str) -> Record:
    """The run whose id or hash begins with `wanted`. Raises ConfigError if there is none, or more than one."""
    refuse_no_name(wanted)
    name = Path(wanted).name
    found = [r for r in records if r["id"] == name] or [
        r for r in records if r["id"].startswith(name) or r["id"].rpartition("-")[2].startswith(name)
    ]
    if len(found) == 1:
        return found[0]
    text, fix = "there is no such run: see `alignlab runs`", ""
    if found:
        text = f"fits several runs: {', '.join(r['id'] for r in found[:5])}{', ...' if len(found) > 5 else ''}"
        kinds = {r["id"].rpartition("-")[0] for r in found}
        fix = f"alignlab runs objective={name}" if kinds == {name} else "alignlab runs"
    raise ConfigError([Problem("run", wanted, text, fix)], where=_WHERE)


def refuse_no_name(wanted: str) -> None:
    """Raise ConfigError for a text without a name, such as "" and ".", which every id would begin with."""
    if not Path(wanted).name.strip():
        raise ConfigError(
            [Problem("run", wanted, "needs the id of a run, or its beginning", "alignlab runs")], where=_WHERE
        )


def difference(one: Record, other: Record) -> dict[str, tuple[Any, Any]]:
    """key -> both values, for keys of the config that differ."""
    keys = dict.fromkeys((*one["flat"], *other["flat"]))
    pairs = {key: (one["flat"].get(key), other["flat"].get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def children_of(record: Record, records: Iterable[Record]) -> list[str]:
    """Ids of the runs that start from this one, or use it as reward model."""
    return [r["id"] for r in records if record["id"] in (r.get("parent"), r.get("reward"))]


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


def _equal(actual: Any, wanted: str) -> bool:
    try:
        return float(actual) == float(wanted)
    except (OverflowError, TypeError, ValueError):
        return fnmatchcase(json.dumps(actual) if actual is None or isinstance(actual, bool) else str(actual), wanted)
