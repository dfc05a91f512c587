"""What the texts of one split show: rows that teach nothing, repeat others or contradict them, and the labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np

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
class Texts:
    """What the texts of the R rows of a split show.

    prompts:  uint64[R] digests of the prompts.
    rows:     uint64[R] digests of the whole rows.
    found:    reason -> rows of the split that have it.
    left_out: words of a reason -> rows that were left out for it.
    good:     number of rows that are labelled good; None if rows have no labels.
    places:   [R] where each row comes from.
    """

    prompts: Digests
    rows: Digests
    found: Mapping[Reason, Found] = field(default_factory=dict)
    left_out: Mapping[str, Found] = field(default_factory=dict)
    good: int | None = None
    places: Sequence[Place | None] = ()

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
    places = [row.place for row in rows]
    labels = [row.desirable for row in rows if isinstance(row, Labelled)]
    good = sum(labels) if labels else None
    texts = Texts(keys.prompts, keys.rows, left_out=_left_out(loaded), good=good, places=places)
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
