"""An index of the records of an output folder, so that a list of thousands of runs opens few files.

The index is a cache. An entry counts only if size, times and inode of the run's record are what they were when it was
indexed. Without the index, or with a damaged one, the records themselves are read, with the same result.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import ChainMap
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignlab.errors import DamagedError
from alignlab.integrity import new_file, read_sealed, refuse_device
from alignlab.runs.identity import flatten
from alignlab.runs.record import is_too_deep, with_types

# Fields of a record that the index holds, besides its config and its summary.
FIELDS = (
    "status", "reason", "attempt", "started", "host", "git", "sweep", "parent", "reward", "overrides", "queued_by",
)  # fmt: skip

WORTH = 200  # the index is written anew when so many runs are not in it
_FORMAT = 1
_SETTLED = 2_000_000_000  # nanoseconds: a younger file may change again without a change of its times

# Size, time of the last change of the content and of the inode (nanoseconds), and inode of a record's file.
Stamp = list[int]


def stamp_of(file: str | Path) -> Stamp:
    """What changes whenever a file changes. Raises OSError if there is no such file."""
    found = os.stat(file)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


@dataclass
class RunIndex:
    """The entries of all runs of a folder.

    parts:   values that many records share: groups of their configs with dotted keys, and names of their metrics.
    entries: run -> [stamp, fields, numbers of its config's parts, number of its metrics' names, values of metrics].
    """

    file: Path
    parts: list[Any] = field(default_factory=list)
    entries: dict[str, list[Any]] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)
    _added: int = 0

    @classmethod
    def read(cls, runs: Path) -> RunIndex:
        """The index of a folder of runs; empty if there is none, or if it is damaged."""
        file = runs / ".index"
        try:
            refuse_device(file)
            digest, _, body = file.read_bytes().partition(b"\n")
            found = json.loads(body) if digest.decode() == hashlib.sha256(body).hexdigest() else {}
            if found.get("format") == _FORMAT:
                return cls(file, found["parts"], found["runs"])
        except (OSError, ValueError, AttributeError, KeyError, RecursionError):
            pass
        return cls(file)

    def get(self, name: str, stamp: Stamp | None) -> dict[str, Any] | None:
        """The fields of a run's record that the index holds, its `summary`, and `flat`: its config with dotted keys.

        None if the run has no entry, or if its record has changed.
        """
        try:
            was, fields, config, names, values = self.entries[name]
            if not stamp or was != stamp:
                return None
            # The last of equal keys counts, as in `flatten`.
            flat = ChainMap(*(self.parts[number] for number in reversed(config)))
            return {**fields, "summary": dict(zip(self.parts[names], values, strict=True)), "flat": flat}
        except (KeyError, IndexError, TypeError, ValueError):
            return None

    def add(self, name: str, stamp: Stamp, file: Path) -> None:
        """Index a record, if its file is whole, all its fields have the right type, and it did not change just now.

        A record with a fault stays out of the index. It is read every time, so its warning is logged every time.
        """
        if time.time_ns() - max(stamp[1:3]) < _SETTLED or (record := _faultless(file)) is None:
            return
        with suppress(OSError):
            if stamp_of(file) == stamp:
                fields = {key: record[key] for key in FIELDS if key in record}
                config = [self._number(flatten({key: value})) for key, value in record.get("config", {}).items()]
                summary = record.get("summary", {})
                self.entries[name] = [stamp, fields, config, self._number(list(summary)), list(summary.values())]
                self._added += 1

    def write(self, names: Iterable[str]) -> None:
        """Write the entries of the runs that there are, if enough are new and the folder can be written."""
        if self._added < WORTH:
            return
        kept = RunIndex(self.file)
        renumbered: dict[int, int] = {}

        def number(old: int) -> int:
            if old not in renumbered:
                renumbered[old] = kept._number(self.parts[old])
            return renumbered[old]

        for name in names:
            if name in self.entries:
                stamp, fields, config, metrics, values = self.entries[name]
                kept.entries[name] = [stamp, fields, [number(old) for old in config], number(metrics), values]
        found = {"format": _FORMAT, "parts": kept.parts, "runs": kept.entries}
        body = json.dumps(found, separators=(",", ":")).encode()
        with suppress(OSError), new_file(self.file) as scratch:
            scratch.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)

    def _number(self, part: Any) -> int:
        """The number of a part, which is added if it is new."""
        text = json.dumps(part)
        if text not in self._numbers:
            self._numbers[text] = len(self.parts)
            self.parts.append(part)
        return self._numbers[text]


def _faultless(file: Path) -> Mapping[str, Any] | None:
    """The content of a record; None if anything about it deserves a warning."""
    try:
        record = read_sealed(file)
    except (OSError, DamagedError):
        return None
    if is_too_deep(record) or not record.get("status"):
        return None
    found, wrong = with_types(record)
    return None if wrong else found
