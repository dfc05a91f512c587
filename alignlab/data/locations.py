"""Where rows with named columns lie: files, folders with the structure of a hub data set, and the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignlab.data.files import FORMATS, Record, format_of, parse_records, read_bytes
from alignlab.data.sources.base import load_rows, local_files
from alignlab.errors import Problem
from alignlab.integrity import is_device
from alignlab.spelling import correct_spelling


@dataclass(frozen=True)
class Part:
    """The rows of one split that lie in one place.

    name:    the file, or the hub set with subset and split.
    content: the bytes of the file; None for a hub set.
    path, subset, split, revision: of a hub set.
    """

    name: str
    content: bytes | None
    path: str = ""
    subset: str = ""
    split: str = ""
    revision: str = ""

    def records(self) -> list[Record]:
        """All rows. Raises DataError if they can't be read."""
        if self.content is not None:
            return parse_records(self.content, self.name)
        return list(load_rows(self.path, self.revision, name=self.subset or None, split=self.split))


def paths_of(value: Any) -> list[str]:
    """The value of `data.path` as a list."""
    return [path for path in ([value] if isinstance(value, str) else value) if path]


def shown(value: Any) -> str:
    """The value of `data.path` for messages."""
    return ", ".join(paths_of(value))


def missing(key: str, path: str) -> Iterator[Problem]:
    """Yield a problem if a path is a file or a folder that does not exist, or a file of an unknown format."""
    if not Path(path).exists():
        if format_of(path) or path.startswith((".", "/", "~")):
            text = f"no such file (looked in {Path.cwd()})"
            if any(mark in path for mark in "*?["):
                text += "; a pattern is not a path: name the folder, or list the files"
                yield Problem(key, path, text, f"{key}=[a.jsonl,b.jsonl]")
            else:
                near = _near(Path(path))
                yield Problem(key, path, text, f"{key}={near or 'my_rows.jsonl'}")
    elif is_device(path):
        yield Problem(key, path, "is a device or a pipe, not a file; save its rows in a file", f"{key}=my_rows.jsonl")
    elif Path(path).is_file() and not format_of(path):
        yield Problem(key, path, f"must be one of: {', '.join(FORMATS)} (.gz too)", f"{key}=my_rows.jsonl")


def _near(path: Path) -> str:
    """The file beside a missing one whose name is nearly the same. Empty if there is none."""
    with suppress(OSError):
        guess = correct_spelling(path.name, [file.name for file in path.parent.iterdir()])
        return str(path.with_name(guess)) if guess else ""
    return ""


def parts_of(path: str, split: str, subset: str, revision: str = "") -> list[Part]:
    """The parts that hold a split. A file is one part, whatever the split. Raises DataError if a file can't be read."""
    if Path(path).is_file() or is_device(path):
        return [Part(path, read_bytes(path))]
    if Path(path).is_dir():
        return [Part(file, read_bytes(file)) for file in local_files(path, split, subset)]
    return [Part(", ".join(filter(None, (path, subset, split))), None, path, subset, split, revision)]
