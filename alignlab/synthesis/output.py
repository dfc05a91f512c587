"""The file of the rows that were made, and the record of where they come from, `<name>.provenance.json`."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignlab.data.rows import messages_of
from alignlab.errors import DamagedError, Problem, UnsavedError
from alignlab.integrity import new_file, read_sealed, set_aside, sha256_of, write_sealed
from alignlab.targets import problems_of_target

log = logging.getLogger(__name__)

# Types of the entries of a provenance that are read.
_TYPES: Mapping[str, type] = {
    **dict.fromkeys(("rows", "samples", "cut_off", "cut_prompts", "unjudged"), int),
    **dict.fromkeys(("file", "names", "prompts", "settings", "left_out"), dict),
    "read_by": str,
}
_INNER_TYPES = (
    ("file", "sha256", str), ("names", "policy", str), ("prompts", "number", int), ("prompts", "of", int),
    ("settings", "max_new_tokens", int),
)  # fmt: skip


def rows_file(folder: Path, form: str, kind: str) -> Path:
    """The file of rows in a folder. form: pairs, labels or rankings. kind: jsonl or parquet."""
    return folder / f"{form}.{kind}"


def provenance_file(rows: Path) -> Path:
    """The file that says where the rows of a file come from."""
    return rows.with_name(f"{rows.stem}.provenance.json")


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any]) -> None:
    """Write the rows and then their provenance, each whole or not at all. Raises UnsavedError if that fails."""
    try:
        with new_file(file) as scratch:
            if file.suffix == ".parquet":
                _write_parquet(scratch, rows)
            else:
                text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                scratch.write_text(text, encoding="utf-8")
        write_sealed(provenance_file(file), {**provenance, "file": {"name": file.name, "sha256": sha256_of(file)}})
    except OSError as error:
        raise UnsavedError(f"{file} can't be written: {error}\n  type: output_root=<another folder>") from error


def problems_of_copy(to: Path) -> Iterator[Problem]:
    """Yield the problem of a file that rows can't be copied to, such as one that `copy_rows` did not write."""
    record = provenance_file(to)
    there = [file for file in (to, record) if os.path.lexists(file)]
    if problems := [*problems_of_target("to", to), *problems_of_target("to", record)]:
        yield problems[0]
    elif there and not _is_copy(to, record):
        text = f"would replace {there[0]}, which is not as `alignlab synthesize` wrote it"
        yield Problem("to", str(to), text, f"to=<another file{to.suffix}>")


def _is_copy(to: Path, record: Path) -> bool:
    """Whether `copy_rows` wrote the provenance and, if there are rows, these rows."""
    try:
        found = read_sealed(record)
        return _is_provenance(found) and (not os.path.lexists(to) or found["file"]["sha256"] == sha256_of(to))
    except (OSError, DamagedError):
        return False


def copy_rows(file: Path, to: Path) -> None:
    """Copy a file of rows and their provenance, each whole or not at all. Raises UnsavedError if that fails."""
    try:
        with new_file(to) as scratch:
            shutil.copyfile(file, scratch)
        record = read_sealed(provenance_file(file))
        write_sealed(provenance_file(to), {**record, "file": {"name": to.name, "sha256": sha256_of(to)}})
    except OSError as error:
        raise UnsavedError(f"{to} can't be written: {error}\n  type: to=<another file>") from error


def finished(file: Path) -> dict[str, Any] | None:
    """The provenance of rows that an earlier command made; None if they are missing, incomplete or damaged.

    Rows are incomplete if answers were unjudged: the judge is asked for them again.
    """
    record = provenance_file(file)
    if not (file.exists() and record.exists()):
        return None
    try:
        found = read_sealed(record)
        if not _is_provenance(found):
            raise DamagedError(record, "is damaged (it does not say where rows come from)")
        if found["file"]["sha256"] != sha256_of(file):
            raise DamagedError(file, f"is damaged, or was changed by hand (its checksum is not the one in {record})")
    except DamagedError as error:
        log.warning("%s", set_aside(error, "the rows are made again"))
        return None
    return None if found["unjudged"] else found


def _is_provenance(found: Mapping[str, Any]) -> bool:
    """Whether the entries that are read have the types that `pipeline.synthesize` has written."""
    return all(isinstance(found.get(key), kind) for key, kind in _TYPES.items()) and all(
        isinstance(found[key].get(part), kind) for key, part, kind in _INNER_TYPES
    )


def _write_parquet(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A column of Parquet has one type, so all prompts are lists of messages if one of them is."""
    import pyarrow
    from pyarrow import parquet

    if any(not isinstance(row["prompt"], str) for row in rows):
        rows = [{**row, "prompt": messages_of(row["prompt"])} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), file)
