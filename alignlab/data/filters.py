"""Finds rows that teach nothing or contradict others, and leaves them out. Every row that is left out is counted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignlab.data.conversations import prompt_key
from alignlab.data.rows import AnyRow, Labelled, LeftOut, Loaded, Pair, PromptOnly, Ranking, Row, Split

Digests = NDArray[np.uint64]
Mask = NDArray[np.bool_]


class Reason(Enum):
    """Why a row may be left out. `data.drop` and findings use the name in lower case; the value describes it."""

    EMPTY = "empty answer"
    IDENTICAL = "identical answers"
    TIE = "no two grades differ"
    NEGATIVE_MARGIN = "margin below 0"
    EMPTY_PROMPT = "empty prompt, or a turn without text"
    NULL_TEXT = "a word for no value as text"
    LEAKED = "prompt is held out"
    SWAPPED = "same pair the other way round"
    CONTRADICTORY = "same answer labelled good and bad"
    DUPLICATE = "same as an earlier row"

    @property
    def key(self) -> str:
        """The reason's name in configs and in JSON."""
        return self.name.lower()


REASONS = {reason.key: reason for reason in Reason}

# What programs write as text where there is no text.
_NULLS = {"None", "null", "NULL", "nan", "NaN", "<NA>", "undefined"}
_LONGEST_NULL = 20  # characters, with the white space around it


@dataclass(frozen=True)
class Keys:
    """64-bit digests of R rows.

    prompts:   uint64[R] of the prompts. White space counts as in `prompt_key`.
    rows:      uint64[R] of the prompts with all answers, labels and grades.
    orders:    uint64[R] of the prompts with the preference or label: the order of the answers, without grades. None if
               rows have no preference.
    opposites: uint64[R] of the same rows with the opposite preference or label: what `orders` has for a row that
               contradicts this one. None if rows have no preference.
    """

    prompts: Digests
    rows: Digests
    orders: Digests | None = None
    opposites: Digests | None = None


def keys_of(rows: Sequence[AnyRow]) -> Keys:
    """Digests by which equal prompts, equal rows and contradictory rows are found."""
    prompts = [prompt_key(row.prompt) for row in rows]
    contents = [_content(row) for row in rows]
    keys = Keys(_digests(prompts), _digests(zip(prompts, contents, strict=True)))
    if not rows or not isinstance(rows[0], Pair | Labelled | Ranking):  # all rows of a split are of one kind
        return keys
    opposites = _digests(zip(prompts, map(_opposite, rows), strict=True))
    if not isinstance(rows[0], Ranking):
        return replace(keys, orders=keys.rows, opposites=opposites)
    orders = _digests(zip(prompts, map(_order, rows), strict=True))
    return replace(keys, orders=orders, opposites=opposites)


def _texts(row: AnyRow) -> list[str]:
    return [] if isinstance(row, PromptOnly) else [text for text, _ in row.answers()]


def _turns(row: AnyRow) -> list[str]:
    """The texts of the prompt's turns."""
    return [row.prompt] if isinstance(row.prompt, str) else [turn["content"] for turn in row.prompt]


def _content(row: AnyRow) -> Any:
    """The answers of a row with their labels or grades."""
    if isinstance(row, Ranking):
        return sorted(zip(row.completions, map(float, row.grades), strict=True))
    return (_texts(row), row.desirable) if isinstance(row, Labelled) else _texts(row)


def _opposite(row: Any) -> Any:
    """The content of a row that contradicts this one; for a ranking, the order of its answers."""
    if isinstance(row, Pair):
        return [row.rejected, row.chosen]
    return _order(row, -1) if isinstance(row, Ranking) else (_texts(row), not row.desirable)


def _order(row: Any, sign: int = 1) -> list[tuple[str, int]]:
    """The answers of a ranking with their places: the worst has 0, or the best one for `sign=-1`."""
    grades = [sign * grade for grade in row.grades]
    different = sorted(set(grades))
    return sorted((text, different.index(grade)) for text, grade in zip(row.completions, grades, strict=True))


def _digests(values: Any) -> Digests:
    texts = (repr(value).encode() for value in values)
    return np.array([int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") for text in texts], np.uint64)


def find(rows: Sequence[AnyRow], keys: Keys, held_out: Digests | None = None) -> dict[Reason, Mask]:
    """For each reason that some rows have: bool[R], True for these rows.

    keys:     `keys_of(rows)`.
    held_out: digests of the held-out prompts, if the rows are training rows.

    The first of several equal rows is not a duplicate. Of rows that contradict each other, all are found.
    """
    masks: dict[Reason, Any] = {
        Reason.EMPTY: [not all(text.strip() for text in _texts(row)) for row in rows],
        Reason.IDENTICAL: [len(answers := _texts(row)) > 1 and len(set(answers)) == 1 for row in rows],
        Reason.TIE: [_is_tie(row) for row in rows],
        Reason.EMPTY_PROMPT: [not all(text.strip() for text in _turns(row)) for row in rows],
        Reason.NULL_TEXT: [_has_null(row) for row in rows],
        Reason.NEGATIVE_MARGIN: [(getattr(row, "margin", None) or 0) < 0 for row in rows],
        Reason.DUPLICATE: _repeats(keys.rows),
    }
    if held_out is not None:
        masks[Reason.LEAKED] = are_among(keys.prompts, held_out)
    if keys.orders is not None and keys.opposites is not None:
        of_labels = isinstance(rows[0], Labelled)
        opposed = are_among(keys.opposites, keys.orders) & (keys.opposites != keys.orders)
        masks[Reason.CONTRADICTORY if of_labels else Reason.SWAPPED] = opposed
    found = {reason: np.asarray(masks[reason], dtype=bool) for reason in Reason if reason in masks}
    return {reason: mask for reason, mask in found.items() if mask.any()}


def _is_tie(row: AnyRow) -> bool:
    if isinstance(row, Ranking):
        return len(set(row.grades)) < 2
    return isinstance(row, Pair) and row.margin == 0


def _has_null(row: AnyRow) -> bool:
    """Whether the prompt, a turn of it or an answer is only a word for no value."""
    return any(len(text) < _LONGEST_NULL and text.strip() in _NULLS for text in (*_turns(row), *_texts(row)))


def are_among(keys: Digests, others: Digests) -> Mask:
    """bool[R], True for each of the R keys that is among the others.

    Like `np.isin`, but by sorting: numpy finds the different values by a hash table, which takes 50 times as long.
    """
    ordered = np.sort(others)
    return np.searchsorted(ordered, keys, "right") > np.searchsorted(ordered, keys, "left")


def count_different(keys: Digests) -> int:
    """The number of different keys. It is found by sorting, for the reason given in `are_among`."""
    ordered = np.sort(keys)
    return int((ordered[1:] != ordered[:-1]).sum()) + bool(len(keys))


def _repeats(keys: Digests) -> Mask:
    """bool[R], True for each row that equals an earlier one."""
    first = np.unique(keys, return_index=True)[1]
    repeats = np.ones(len(keys), dtype=bool)
    repeats[first] = False
    return repeats


def without(loaded: Loaded[Row], found: Mapping[Reason, Mask]) -> Loaded[Row]:
    """The rows that have none of the reasons. A row with several is counted under the first one that `Reason` lists."""
    why: dict[int, Reason] = {}
    for reason in Reason:
        for index in np.flatnonzero(found.get(reason, [])):
            why.setdefault(int(index), reason)
    if not why:
        return loaded
    kept = [row for i, row in enumerate(loaded.rows) if i not in why]
    return loaded.with_rows(kept, [LeftOut(why[i].value, loaded.rows[i].place) for i in sorted(why)])


def read_split(read: Callable[[Split], Loaded[Row]], split: Split, drop: Sequence[str]) -> Loaded[Row]:
    """The rows of a split without those that `drop` names, by the keys of reasons (`data.drop`).

    read: returns the rows of a split. For `leaked`, it is also called for the held-out rows.
    """
    loaded = read(split)
    if not drop:
        return loaded
    leaks = split == "train" and Reason.LEAKED.key in drop
    held_out = keys_of(read("eval").rows).prompts if leaks else None
    found = find(loaded.rows, keys_of(loaded.rows), held_out)
    return without(loaded, {reason: mask for reason, mask in found.items() if reason.key in drop})


def drop_unusable(loaded: Loaded[Row]) -> Loaded[Row]:
    """Leave out rows that teach nothing: pairs with identical answers, rankings without two grades, empty answers."""
    reasons = [_unusable(row) for row in loaded.rows]
    kept = [row for row, reason in zip(loaded.rows, reasons, strict=True) if reason is None]
    unusable = [LeftOut(why.value, row.place) for row, why in zip(loaded.rows, reasons, strict=True) if why is not None]
    return loaded.with_rows(kept, unusable)


def _unusable(row: AnyRow) -> Reason | None:
    if isinstance(row, Ranking):
        return Reason.TIE if _is_tie(row) else None
    if not all(text.strip() for text in _texts(row)):
        return Reason.EMPTY
    return Reason.IDENTICAL if isinstance(row, Pair) and row.chosen == row.rejected else None
