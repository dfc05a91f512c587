"""What the texts of one split show: rows that teach nothing, repeat others or contradict them, and the labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from alignlab.data.filters import Digests, Mask, Reason, find, keys_of
from alignlab.data.rows import Labelled, LeftOut, Loaded, Place

# Number of places that are listed as examples.
EXAMPLES = 5


@dataclass(frozen=True)
class Found:
    """Rows with one property: their number, and where the first of them come from."""

    count: int
    places: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Places(Sequence[Place | None]):
    """Where R rows come from.

    names: the files.
    files: int32[R] index of a row's file; -1 if it is not known where the row comes from.
    rows:  int64[R] number of a row in its file.
    """

    names: list[str]
    files: NDArray[np.int32]
    rows: NDArray[np.int64]

    @staticmethod
    def of(places: Sequence[Place | None]) -> Places:
        """The same places as arrays."""
        index: dict[str, int] = {}
        files = [-1 if place is None else index.setdefault(place.file, len(index)) for place in places]
        rows = [0 if place is None else place.row for place in places]
        return Places(list(index), np.array(files, np.int32), np.array(rows, np.int64))

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, i: int) -> Place | None: ...
    @overload
    def __getitem__(self, i: slice) -> list[Place | None]: ...
    def __getitem__(self, i: int | slice) -> Place | list[Place | None] | None:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        return None if self.files[i] < 0 else Place(self.names[self.files[i]], int(self.rows[i]))


@dataclass(frozen=True)
class Texts:
    """What the texts of the R rows of a split show.

    prompts:  uint64[R] digests of the prompts.
    rows:     uint64[R] digests of the whole rows.
    found:    reason -> rows of the split that have it.
    left_out: words of a reason -> rows that were left out for it.
    good:     number of rows that are labelled good; None if rows have no labels.
    places:   [R] where each row comes from.
    beyond:   number of rows that a limit leaves unused (Loaded.beyond).
    """

    prompts: Digests
    rows: Digests
    found: Mapping[Reason, Found] = field(default_factory=dict)
    left_out: Mapping[str, Found] = field(default_factory=dict)
    good: int | None = None
    places: Places = field(default_factory=lambda: Places.of([]))
    beyond: int = 0

    @property
    def count(self) -> int:
        """Number of rows that were not left out."""
        return len(self.rows)

    def at(self, mask: Mask) -> Found:
        """The rows of a mask bool[R]."""
        places = (self.places[int(i)] for i in np.flatnonzero(mask))
        return Found(int(mask.sum()), _first(places))


def look_at_texts(loaded: Loaded[Any]) -> Texts:
    """Look at all rows of a split, and at the record of the rows that were left out."""
    rows = loaded.rows
    keys = keys_of(rows)
    places = Places.of([row.place for row in rows])
    labels = [row.desirable for row in rows if isinstance(row, Labelled)]
    good = sum(labels) if labels else None
    texts = Texts(keys.prompts, keys.rows, left_out=_left_out(loaded), good=good, places=places, beyond=loaded.beyond)
    return replace(texts, found={reason: texts.at(mask) for reason, mask in find(rows, keys).items()})


def _left_out(loaded: Loaded[Any]) -> dict[str, Found]:
    listed: dict[str, list[LeftOut]] = defaultdict(list)
    for row in loaded.left_out:
        listed[row.reason].append(row)
    return {
        reason: Found(count, _first(row.place for row in listed[reason])) for reason, count in loaded.dropped.items()
    }


def _first(places: Iterable[Place | None]) -> tuple[Place, ...]:
    return tuple(islice((place for place in places if place is not None), EXAMPLES))
