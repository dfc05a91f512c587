"""Token rows in an Arrow file, which every process that reads it maps into its memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints, overload

import numpy as np

from alignlab.data.rows import Prompt
from alignlab.data.tokenize import Tokens
from alignlab.errors import DamagedError
from alignlab.integrity import new_file

Row = TypeVar("Row", bound=Tokens)

# (place of a row in its record batch) -> value of one column.
Column = Callable[[int], Any]

# Rows in one record batch of a file. Only the last batch may have fewer.
_BATCH = 4096


def write_rows(rows: Iterable[Row], kind: type[Row], file: Path) -> None:
    """Write rows to a file, whole or not at all. They are taken one by one and need not fit into memory.

    kind: one of the row classes of alignlab/data/tokenize.py. Its field `index` is not stored, because it is the place
          of the row in the file.
    """
    import pyarrow

    types = _types(kind)
    schema = pyarrow.schema([(name, _arrow_type(hint)) for name, hint in types.items()])
    remaining = iter(rows)
    with new_file(file) as scratch, pyarrow.ipc.new_file(str(scratch), schema) as writer:
        while batch := list(islice(remaining, _BATCH)):
            columns = {name: [getattr(row, name) for row in batch] for name in types}
            if types.get("content") == Prompt:
                columns["content"] = [json.dumps(prompt) for prompt in columns["content"]]
            writer.write_batch(pyarrow.RecordBatch.from_pydict(columns, schema))


class TokenTable(Sequence[Row], Generic[Row]):
    """The rows of a file of `write_rows`. Raises DamagedError if the file can't be read.

    A row is made when it is asked for. So a million rows need little more memory than the part of the file that the
    system keeps in memory.
    """

    def __init__(self, file: Path, kind: type[Row]) -> None:
        import pyarrow

        self._kind, self._types = kind, _types(kind)
        try:
            self._reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(file)))
        except (OSError, pyarrow.ArrowException) as error:
            raise DamagedError(file, f"holds no token ids: {error}") from error
        batches = self._reader.num_record_batches
        self._length = (batches - 1) * _BATCH + self._reader.get_batch(batches - 1).num_rows if batches else 0
        self._columns: dict[int, dict[str, Column]] = {}

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        if isinstance(place, slice):
            return [self._row(i) for i in range(*place.indices(self._length))]
        if not -self._length <= place < self._length:
            raise IndexError(place)
        return self._row(place % self._length)

    def _row(self, place: int) -> Row:
        batch, within = divmod(place, _BATCH)
        if batch not in self._columns:
            table = self._reader.get_batch(batch)
            self._columns[batch] = {name: _column(table.column(name), hint) for name, hint in self._types.items()}
        return self._kind(index=place, **{name: value(within) for name, value in self._columns[batch].items()})


def _types(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind) if f.name != "index"}


def _arrow_type(hint: Any) -> Any:
    import pyarrow

    ids = pyarrow.large_list(pyarrow.int32())
    return {
        list[int]: ids,
        list[int] | None: ids,
        list[list[int]]: pyarrow.large_list(ids),
        list[float]: pyarrow.large_list(pyarrow.float64()),
        float | None: pyarrow.float64(),
        bool: pyarrow.bool_(),
        Prompt: pyarrow.string(),
    }[hint]


def _column(array: Any, hint: Any) -> Column:
    """A function that reads one value of an Arrow array. Lists are read through numpy, because Arrow is slow at it."""
    if hint == Prompt:
        return lambda i: json.loads(array[i].as_py())
    if hint in (list[int], list[float]):
        return _lists(array)
    if hint == list[list[int]]:
        inner, starts = _lists(array.values), np.from_dlpack(array.offsets)
        return lambda i: [inner(j) for j in range(starts[i], starts[i + 1])]
    return lambda i: array[i].as_py()


def _lists(array: Any) -> Column:
    # Arrow's own `to_numpy` would import pandas, which takes half a second.
    values, starts = np.from_dlpack(array.values), np.from_dlpack(array.offsets)
    return lambda i: values[starts[i] : starts[i + 1]].tolist()
