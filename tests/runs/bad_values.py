"""Values of wrong types and beyond reason, and the records that hold one of them each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, 1, -1.5, 10**400, float("nan"), float("inf"), "", "x", "../../etc", "\x1b[31m|<b>", [], [None], [["x"]],
    [{"a": 1}], {}, {"a": 1}, {"a": {"b": [1]}}, {"rows": "x"},
)  # fmt: skip


def bad_records(good: Mapping[str, Any], depth: int = 3) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name of the changed field, record) for each field, and each value that is not the field's own.

    Fields of nested mappings, and those of the first entry of a list, are changed too. One record lacks the field.
    """
    for key, value in good.items():
        rest = {name: own for name, own in good.items() if name != key}
        yield key, rest
        for bad in VALUES:
            if bad is not value:
                yield key, {**good, key: bad}
        if depth > 1 and isinstance(value, Mapping):
            for name, inner in bad_records(value, depth - 1):
                yield f"{key}.{name}", {**good, key: inner}
        if depth > 1 and isinstance(value, list) and value and isinstance(value[0], Mapping):
            for name, inner in bad_records(value[0], depth - 1):
                yield f"{key}[0].{name}", {**good, key: [inner, *value[1:]]}


def too_deep(levels: int = 500) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(levels):
        found = {"a": found}
    return found
