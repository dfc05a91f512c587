"""The record of a sweep (`sweep.json`): its name, its question, its axes and its points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignlab.errors import DamagedError
from alignlab.integrity import read_record
from alignlab.runs.record import ListOf, Table, is_name, is_text, wrong_types

_TEXTS = ListOf(is_text)
_SWEEP = Table({"name": is_text, "question": is_text, "axes": _TEXTS, "zip": ListOf(_TEXTS), "points": ListOf(Table())})


def read_sweep_record(folder: Path) -> dict[str, Any]:
    """The record in the folder of a sweep. Anybody may have written it, so its types are checked.

    `name` and `question` are texts, `axes` is a list of names, and `zip` a list of lists of them. Each of the `points`
    has a `run`, which is a plain name, and a text for each axis.
    Raises OSError if the record can't be read, and DamagedError if it is damaged or has another form.
    """
    file = folder / "sweep.json"
    record = {"name": folder.name, "question": "", "axes": [], "zip": [], **read_record(file)}
    wrong = [*wrong_types(record, _SWEEP), *(key for key in _SWEEP.fields if record.get(key) is None)]
    if not wrong and not all(_is_point(point, record["axes"]) for point in record["points"]):
        wrong = ["points"]
    if wrong:
        text = f"is not the record of a sweep (fields that lack or have a wrong type: {', '.join(wrong)})"
        raise DamagedError(file, text)
    return record


def _is_point(point: dict[str, Any], axes: list[str]) -> bool:
    return is_name(point.get("run")) and all(is_text(point.get(axis)) for axis in axes)
