"""Reads W&B's offline files."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def log_records(content: bytes) -> Iterator[bytes]:
    """Records of a `.wandb` file: LevelDB's log format (32 KiB blocks, 7-byte record headers) after a 7-byte header.

    W&B's service may be writing still: a last record that is not there in full is left out.
    """
    block, place, parts = 32 * 1024, 7, b""
    while place + 7 <= len(content):
        if block - place % block < 7:
            place += block - place % block
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        if place + 7 + length > len(content):
            return
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


def offline_records(directory: Path) -> list[Any]:
    """The records of the only offline W&B file below a directory of a run or of a sweep, once it is complete."""
    from wandb.proto import wandb_internal_pb2

    deadline = time.monotonic() + 30
    while True:  # W&B's service writes with a delay
        (file,) = directory.glob("wandb/offline-run-*/*.wandb")
        records = []
        for data in log_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            records.append(record)
        if any(r.WhichOneof("record_type") == "exit" for r in records):
            return records
        assert time.monotonic() < deadline, "no end of the run in W&B's file"
        time.sleep(0.1)


def history_of(records: Iterable[Any]) -> list[dict[str, Any]]:
    """The logged rows, in the order of logging."""
    return [
        {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in r.history.item}
        for r in records
        if r.WhichOneof("record_type") == "history"
    ]


def summary_of(records: Iterable[Any]) -> dict[str, Any]:
    """The last value of each entry of the summary."""
    updates = [u for r in records for u in r.summary.update]
    return {u.key or "/".join(u.nested_key): json.loads(u.value_json) for u in updates}


def media_of(directory: Path, rows: Iterable[dict[str, Any]]) -> dict[str, list[Path]]:
    """Name -> files that the logged rows name, images and tables, below the only offline folder of a directory."""
    (folder,) = directory.glob("wandb/offline-run-*")
    found: dict[str, list[Path]] = {}
    for row in rows:
        for name, value in row.items():
            path, _, field = name.rpartition("/")
            if field == "path":  # a mapping is logged with one entry for each of its fields
                found.setdefault(path, []).append(folder / "files" / value)
            elif isinstance(value, dict) and "path" in value:
                found.setdefault(name, []).append(folder / "files" / value["path"])
    return found
