"""Reading and writing rows of benchmarks: JSON lists and JSON lines, gzipped or not."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignlab.errors import DataError, OutputError

Row = dict[str, Any]


def read_rows(path: str | Path, *needed: str) -> list[Row]:
    """All rows of a .json (one list) or .jsonl file (.gz too); DataError names the row that lacks a needed key."""
    try:
        raw = Path(path).read_bytes()
        text = (gzip.decompress(raw) if str(path).endswith(".gz") else raw).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    try:
        if str(path).removesuffix(".gz").endswith(".json"):
            rows = json.loads(text)
        else:
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if not isinstance(rows, list):
        raise DataError(f"{path} must hold a list of rows, not {type(rows).__name__}")
    for i, row in enumerate(rows, 1):
        absent = [key for key in needed if not isinstance(row, dict) or key not in row]
        if absent:
            raise DataError(f"{path}, row {i} has no {', '.join(absent)}")
    return rows


def write_rows(path: str | Path, rows: Sequence[Row]) -> None:
    """Write a .json list or .jsonl lines, all or nothing."""
    path = Path(path)
    if path.suffix == ".json":
        text = json.dumps(list(rows), ensure_ascii=False, indent=2) + "\n"
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error}") from error
