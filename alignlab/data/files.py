"""Reads files of rows: JSON, JSON lines, CSV (with commas or tabs) and Parquet, gzipped or not.

No type is guessed from a text: "2024-01-01" and "007" remain texts. All values of a CSV file are texts. Nothing is
cached.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from alignlab.errors import DataError
from alignlab.integrity import is_device
from alignlab.spelling import counted

FORMATS = (".jsonl", ".json", ".parquet", ".csv", ".tsv")

# Format -> what separates the cells of a row.
_SEPARATORS = {".csv": ",", ".tsv": "\t"}

Record = dict[str, Any]

# (place in the file, such as "row 3", and what is wrong there).
Faults = Sequence[tuple[str, str]]

# What separates the cells -> what to do if the name of the file promises another separator.
_SEPARATED_BY = {",": "name it *.csv", "\t": "save it with commas, or name it *.tsv"}

_MAX_LISTED = 5
_LONGEST_CELL = 2**31 - 1  # characters; Python's own limit is 131,072
_SPACE_AND_QUOTE = re.compile(r'\s+"')
_MEMORY_SHARE = 4  # bytes, text and rows of a file are in memory at the same time
_LEAST_ROW = 64  # bytes of an empty row in Python
_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"


def format_of(path: str | Path) -> str | None:
    """The format of a file: the ending of its name after `.gz` is removed. None if it is not one of FORMATS."""
    suffix = Path(str(path).removesuffix(".gz")).suffix.lower()
    return suffix if suffix in FORMATS else None


def read_records(path: str | Path) -> list[Record]:
    """All rows of a file. Raises DataError if the file can't be read or if lines of it are not rows."""
    return parse_records(read_bytes(path), path)


def read_bytes(path: str | Path) -> bytes:
    """A file's bytes.

    Raises DataError if it can't be read, if it does not fit into memory, or if it is a device or a pipe, which may have
    no end.
    """
    try:
        if is_device(path):
            raise DataError(f"{path} can't be read: it is a device or a pipe, not a file; save its rows in a file")
        _check_size(path, Path(path).stat().st_size)
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file (looked in {Path.cwd()})") from error
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error


def parse_records(raw: bytes, path: str | Path) -> list[Record]:
    """All rows in the bytes of a file. `path` decides the format and is named in errors.

    Raises DataError if the bytes can't be read or if lines of them are not rows.
    """
    if raw.startswith(_GZIP):
        try:
            raw = _decompressed(raw, path)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} can't be read: {error}") from error
    kind = format_of(path)
    if kind == ".parquet":
        return _parquet(raw, path)
    if raw.startswith(_PARQUET):
        raise DataError(f"{path} is a Parquet file: name it *.parquet")
    text = _decoded(raw, path)
    return _csv(text, path, _SEPARATORS[kind]) if kind in _SEPARATORS else _json(text, path)


def unusable_rows(path: str | Path, faults: Faults, note: str = "") -> DataError:
    """An error that states how many rows of a file can't be used, and lists the first five faults.

    A fault that several rows have is listed once, with the first of them.
    """
    rows = counted(len({place for place, _ in faults}), "row")
    places: dict[str, list[str]] = {}
    for place, text in faults:
        places.setdefault(text, []).append(place)
    listed = list(places.items())[:_MAX_LISTED]
    shown = [f"\n  {where[0]}: {_also_of(text, len(where) - 1)}" for text, where in listed]
    others = len(faults) - sum(len(where) for _, where in listed)
    more = f"\n  and {others} more" if others else ""
    return DataError(f"{path}: {rows} can't be used{''.join(shown)}{more}{note}")


def _also_of(fault: str, others: int) -> str:
    """A fault with the number of other rows that have it, on its first line."""
    line, end, rest = fault.partition("\n")
    return f"{line} (also {counted(others, 'other row')}){end}{rest}" if others else fault


def columns_of(records: Iterable[Record]) -> list[str]:
    """The columns of all rows, in the order in which they first appear."""
    return list(dict.fromkeys(column for record in records for column in record))


def _most_bytes() -> int:
    """Largest size of a file, unpacked, that is read with the memory that is free now."""
    return int(psutil.virtual_memory().available) // _MEMORY_SHARE


def _check_size(path: str | Path, size: int) -> None:
    if size > (most := _most_bytes()):
        raise DataError(
            f"{path} has too many rows for the memory that is free: more than {most / 1e9:.3g} GB, unpacked\n"
            "  split it into smaller files, or stop other programs"
        )


def _decompressed(raw: bytes, path: str | Path) -> bytes:
    """The bytes in a gzipped file. No more are unpacked than fit into memory: a small file can hold many gigabytes."""
    with gzip.open(io.BytesIO(raw)) as file:
        found = file.read(_most_bytes() + 1)
    _check_size(path, len(found))
    return found


def _decoded(raw: bytes, path: str | Path) -> str:
    if b"\0" in raw[:2]:  # the first character is ASCII in all formats, so this is UTF-16 or UTF-32
        raise DataError(f"{path}, line 1 is not UTF-8 (it has zero bytes): save the file as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        text = f"{path}, line {line} is not UTF-8 (byte 0x{raw[error.start]:02x}): save the file as UTF-8"
        raise DataError(text) from error


def _json(text: str, path: str | Path) -> list[Record]:
    """Rows from a list of objects, or from one object per line.

    The content decides which form it is, because files of both forms have either ending.
    """
    whole = format_of(path) == ".json" or text.lstrip().startswith("[")
    if not (whole and text.strip()):
        return _json_lines(text, path)
    try:
        rows = _loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # more than one value, as in JSON lines
            return _json_lines(text, path)
        raise DataError(f"{path}, line {error.lineno} is not JSON: {error.msg} (column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON that can be read: {error}") from error
    if not isinstance(rows, list):
        content, cure = _object_instead(rows) if isinstance(rows, dict) else (_preview(rows), "")
        raise DataError(f"{path} must contain a list of rows, but contains {content}{cure}")
    faults = [(f"row {i}", _not_an_object(row)) for i, row in enumerate(rows, 1) if not isinstance(row, dict)]
    if faults:
        raise unusable_rows(path, faults)
    return rows


def _object_instead(found: Record) -> tuple[str, str]:
    """What a file contains that has one object instead of rows, and how to save its rows."""
    cure = ""
    if inside := [key for key, value in found.items() if isinstance(value, list) and value]:
        cure = f": save the list in {inside[0]} as a file of its own"
    elif found and all(isinstance(value, dict) for value in found.values()):  # as pandas writes a table
        cure = ": if pandas wrote it, use to_json(path, orient='records')"
    return f"one object with the keys {', '.join(list(found)[:8])}", cure


def _json_lines(text: str, path: str | Path) -> list[Record]:
    rows, faults = [], []
    for number, line in enumerate(text.split("\n"), 1):  # `splitlines` would also split at U+2028 and the like
        line = line.strip(" \t\r\ufeff")
        if not line:
            continue
        try:
            row = _loads(line)
        except json.JSONDecodeError as error:
            faults.append((f"line {number}", f"is not JSON: {error.msg} (column {error.colno})"))
        except (ValueError, RecursionError) as error:
            faults.append((f"line {number}", f"is not JSON that can be read: {error}"))
        else:
            if not isinstance(row, dict):
                faults.append((f"line {number}", _not_an_object(row)))
            rows.append(row)
    if faults:
        raise unusable_rows(path, faults)
    return rows


def _loads(text: str) -> Any:
    """The value of a JSON text. Raises ValueError if it is not JSON, or if an object has a key twice."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> Record:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"an object has more than one {', '.join(n for n in found if names.count(n) > 1)}")
    return found


def _not_an_object(value: Any) -> str:
    return f"must be an object with named columns, not {_preview(value)}"


def _preview(value: Any) -> str:
    return f"{json.dumps(value, ensure_ascii=False):.60}"


def _csv(text: str, path: str | Path, separator: str) -> list[Record]:
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    rows, faults, spaced = [], [], False
    try:
        header = next(reader, [])
        if twice := sorted({name for name in header if header.count(name) > 1}):
            raise DataError(f"{path} has more than one column {', '.join(name or 'without a name' for name in twice)}")
        if others := [mark for mark in ",;\t|" if mark != separator and len(header) == 1 and mark in header[0]]:
            cure = _SEPARATED_BY.get(others[0], "save it with commas")
            raise DataError(f"{path} has cells that are separated by {others[0]!r}: {cure}")
        for cells in reader:
            if not "".join(cells).strip() and len(cells) < 2:
                continue  # an empty line
            rows.append(dict(zip(header, cells, strict=False)))
            spaced |= any(_SPACE_AND_QUOTE.match(cell) for cell in cells)
            if len(cells) != len(header):
                faults.append(
                    (f"row {len(rows)}", f"has {counted(len(cells), 'cell')}, but the header has {len(header)}")
                )
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num} is not CSV: {error}") from error
    if spaced:
        faults += _quotes_after_spaces(text, rows)
    if faults:
        raise unusable_rows(path, faults)
    return rows


def _quotes_after_spaces(text: str, rows: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """Yield the rows with a space before a quoted cell, whose quotes would count as text.

    They are told from cells with such a text by a reader that takes these quotes as the marks of a cell.
    """
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    next(reader, [])
    others = (cells for cells in reader if "".join(cells).strip() or len(cells) > 1)
    for number, (row, cells) in enumerate(zip(rows, others, strict=False), 1):
        if any(_SPACE_AND_QUOTE.match(cell) and cell not in cells for cell in row.values()):
            yield (
                f"row {number}",
                "has a space before the quotes of a cell, so that they count as text: remove the space",
            )


def _parquet(raw: bytes, path: str | Path) -> list[Record]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(raw))
        names = file.schema_arrow.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"{path} has more than one column {', '.join(twice)}")
        groups = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
        _check_size(path, max(sum(groups), _LEAST_ROW * file.metadata.num_rows))
        rows: list[Record] = file.read().to_pylist()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    return rows
