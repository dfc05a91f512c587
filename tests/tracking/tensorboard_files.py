"""Reads TensorBoard's event files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any


def events_of(directory: Path) -> list[Any]:
    """The events of the only event file below a directory of a run or of a sweep."""
    from tensorboardX.proto import event_pb2

    (file,) = (directory / "tensorboard").iterdir()
    content, place, events = file.read_bytes(), 0, []
    while place < len(content):  # records of TFRecord: length, checksum, event, checksum
        (length,) = struct.unpack("<Q", content[place : place + 8])
        events.append(event_pb2.Event.FromString(content[place + 12 : place + 12 + length]))
        place += 16 + length
    return events
