"""The types of the fields of a record (run.json). A field of a wrong type is left out, so readers can rely on types.

Somebody may have edited a record, another version may have written it, or it may be damaged. A field that is not named
here may have any type. A field that is null counts as missing where a mapping or a list is expected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

Status = Literal["queued", "running", "done", "failed", "diverged", "interrupted"]

_MOST_COUNT = 2**53  # larger integers are not exact as floating-point numbers
_MOST_DEPTH = 100  # levels of nesting of a record


def is_text(value: object) -> bool:
    return isinstance(value, str)


def is_name(value: object) -> bool:
    """Whether a value is a plain name of a run's directory, and not a path to another place."""
    return isinstance(value, str) and bool(value) and value not in (".", "..") and not set(value) & set("/\\\0")


def is_number(value: object) -> bool:
    """Whether a value is a number that fits a floating-point number; NaN and infinity are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) <= _MOST_COUNT


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_COUNT


def _is_time(value: object) -> bool:
    """Whether a value is a date and time with a time zone, ISO 8601."""
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _is_status(value: object) -> bool:
    return isinstance(value, str) and value in get_args(Status)


@dataclass(frozen=True)
class Table:
    """A JSON object.

    fields: key -> kind of its value. A key may be missing.
    others: kind of the values of all other keys; None: anything.
    null:   whether null is kept. Otherwise it counts as missing.
    """

    fields: Mapping[str, _Kind] = field(default_factory=dict)
    others: _Kind | None = None
    null: bool = False


@dataclass(frozen=True)
class ListOf:
    """A JSON list. Entries of a wrong kind are left out. entries: None means anything."""

    entries: _Kind | None = None


_Kind = Table | ListOf | Callable[[object], bool]


def or_null(kind: Callable[[object], bool]) -> Callable[[object], bool]:
    """The same kind of value, or null."""
    return lambda value: value is None or kind(value)


def _of(kind: _Kind, *names: str) -> dict[str, _Kind]:
    return dict.fromkeys(names, kind)


# Fields without which a record is useless. If one of them has a wrong type, the record is damaged.
ESSENTIAL = ("config", "summary", "overrides", "attempts", "attempt")

_CONFIG = Table(
    {
        **_of(Table(null=True), "callback", "data", "evaluation", "judge", "metric", "model", "objective", "peft"),
        **_of(Table(null=True), "reward", "rollout", "strategy", "sweep", "synthesis", "tracking"),
        "trainer": Table(_of(is_count, "max_steps", "batch_size", "log_every", "eval_every")),
        "optim": Table({"lr": is_number}),
        "seed": is_count,
    }
)
_ATTEMPT = Table(
    {
        **_of(is_count, "attempt", "pid", "resumed_from"),
        **_of(or_null(is_text), "status", "reason", "host", "git"),
        **_of(or_null(_is_time), "started", "ended"),
    }
)
_PLUGIN = Table(_of(is_text, "source", "version", "digest"))
_ROWS = Table({"rows": is_count, "digest": is_text, "dropped": Table(others=is_count)})
_AUDIT = Table({"facts": Table(), **_of(ListOf(), "errors", "warnings", "unchecked")})
_RECORD = Table(
    {
        "config": _CONFIG,
        "summary": Table(others=or_null(is_number)),
        "status": _is_status,
        **_of(or_null(is_name), "id", "parent", "reward", "stack", "sweep", "continues"),
        **_of(or_null(_is_time), "started", "ended"),
        **_of(or_null(is_text), "reason", "host", "cwd", "git", "evaluated", "evaluation_failed", "kept"),
        **_of(or_null(is_text), "metrics_sha256", "policy_sha256"),
        "attempt": is_count,
        **_of(or_null(is_count), "pid", "resumed_from", "stacked", "evaluated_prompts"),
        **_of(Table(others=is_text), "kinds", "versions", "questions"),
        "machine": Table(),
        "chosen": Table({"updates": is_count}),
        "plugins": Table(others=_PLUGIN),
        **_of(ListOf(is_text), "overrides", "damaged"),
        "attempts": ListOf(_ATTEMPT),
        "queued_by": ListOf(Table({"host": is_text, "lock": is_name})),
        "objective": Table({**_of(is_text, "name", "spoken"), "samples": is_count}),
        "model": Table(_of(is_text, "fingerprint", "reference_weights")),
        "data": Table({"fingerprint": is_text, **_of(_ROWS, "train", "eval", "pairs"), "audit": _AUDIT}),
    }
)


def wrong_types(record: Mapping[str, Any], table: Table) -> list[str]:
    """The dotted names of the fields of a record whose types are not those of a table. A field may be missing."""
    wrong: dict[str, None] = {}
    _typed_table(record, table, "", wrong)
    return list(wrong)


def with_types(record: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(the record without the fields of a wrong type, the dotted names of these fields)."""
    wrong: dict[str, None] = {}
    return _typed_table(record, _RECORD, "", wrong), list(wrong)


def is_too_deep(record: Mapping[str, Any]) -> bool:
    """Whether a record is nested so deeply that readers would exceed Python's limit on recursion."""
    level: list[Any] = [record]
    for _ in range(_MOST_DEPTH):
        inner = [part for value in level for part in (value.values() if isinstance(value, dict) else value)]
        level = [part for part in inner if isinstance(part, dict | list)]
        if not level:
            return False
    return True


_WRONG = object()


def _typed(value: Any, kind: _Kind, name: str, wrong: dict[str, None]) -> Any:
    """The value without parts of a wrong type, whose names are added to `wrong`; _WRONG if nothing of it is left."""
    if isinstance(kind, Table | ListOf):
        if isinstance(kind, Table) and isinstance(value, dict):
            return _typed_table(value, kind, f"{name}.", wrong)
        if isinstance(kind, ListOf) and isinstance(value, list):
            entries = [value if kind.entries is None else _typed(value, kind.entries, name, wrong) for value in value]
            if _WRONG in entries:
                wrong[name] = None
            return [entry for entry in entries if entry is not _WRONG]
        if value is None and isinstance(kind, Table) and kind.null:
            return None
    elif kind(value):
        return value
    if value is not None:  # null counts as missing
        wrong[name] = None
    return _WRONG


def _typed_table(value: Mapping[str, Any], kind: Table, before: str, wrong: dict[str, None]) -> dict[str, Any]:
    found = dict(value)
    kinds = [(key, own) for key, own in kind.fields.items() if key in found]
    if kind.others is not None:
        kinds += [(key, kind.others) for key in found if key not in kind.fields]
    for key, own in kinds:
        found[key] = _typed(found[key], own, before + key, wrong)
        if found[key] is _WRONG:
            del found[key]
    return found
