"""Reads and writes rows of benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from alignlab.data.conversations import UnusableRowError
from alignlab.data.files import Record as Row
from alignlab.data.files import read_records, unusable_rows
from alignlab.errors import DataError, UnsavedError
from alignlab.integrity import write_text

Parsed = TypeVar("Parsed")


def read_rows(path: str | Path, *needed: str) -> list[Row]:
    """All rows of a file (see alignlab/data/files.py). Raises DataError with the rows that lack a needed key."""
    rows = read_records(path)
    absent = [(f"row {i}", [key for key in needed if key not in row]) for i, row in enumerate(rows, 1)]
    if faults := [(place, f"has no {', '.join(keys)}") for place, keys in absent if keys]:
        raise unusable_rows(path, faults)
    return rows


def parse_rows(path: str | Path, parse: Callable[[Row], Parsed], *needed: str) -> list[Parsed]:
    """`parse(row)` for all rows. Raises DataError with every row that `parse` rejects, and if there is no row."""
    found, faults = [], []
    for number, row in enumerate(read_rows(path, *needed), 1):
        try:
            found.append(parse(row))
        except UnusableRowError as error:
            faults += [(f"row {number}", fault) for fault in error.faults]
    if faults:
        raise unusable_rows(path, faults)
    if not found:
        raise DataError(f"{path} is empty: it has no rows")
    return found


def read_table(path: str | Path, *needed: str) -> list[Row]:
    """All rows of a file. Raises DataError if it has no rows, or if its first row lacks a needed column."""
    rows = read_records(path)
    if not rows or not set(needed) <= rows[0].keys():
        raise DataError(f"{path} must have the columns {', '.join(map(repr, needed))} and at least one row")
    return rows


def write_rows(path: str | Path, rows: Sequence[Row]) -> None:
    """Write a .json list or .jsonl lines, whole or not at all. Raises UnsavedError if the file can't be written."""
    path = Path(path)
    if path.suffix == ".json":
        text = json.dumps(list(rows), ensure_ascii=False, indent=2) + "\n"
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        write_text(path, text)
    except OSError as error:
        raise UnsavedError(f"{path} can't be written: {error}") from error
