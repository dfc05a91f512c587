"""The contracts of data sources."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from alignlab.contracts.base import EVERY_PART, Contract
from alignlab.data.rows import Split
from alignlab.data.sources.base import Source

_SPLITS: tuple[Split, ...] = ("train", "eval")


def _rows(source: Source, split: Split) -> list[Any]:
    """The rows of a split, in the first shape that the source provides."""
    shape = source.shapes[0]
    if shape == "completions":
        return list(source.completions(split).rows)
    return list(getattr(source, shape)(split, None).rows)


def there_are_rows_to_train_on_and_to_hold_out(source: Source) -> Iterator[str]:
    """There are training rows and held-out rows, with texts."""
    for split in _SPLITS:
        rows = _rows(source, split)
        if not rows:
            yield f"there are no {split} rows"
        if wrong := [row for row in rows if not all(isinstance(text, str) for text, _ in _answers(row))]:
            yield f"{len(wrong)} of {len(rows)} {split} rows have answers that are not texts, such as {wrong[0]!r:.200}"


def _answers(row: Any) -> Any:
    return row.answers() if hasattr(row, "answers") else zip(row.completions, row.ended, strict=True)


def the_same_rows_every_time(source: Source) -> Iterator[str]:
    """Rows and fingerprint are the same every time."""
    for split in _SPLITS:
        if _rows(source, split) != _rows(dataclasses.replace(source), split):
            yield f"the {split} rows differ when they are read again; use a seed of your own"
    first, second = source.fingerprint(), dataclasses.replace(source).fingerprint()
    if first != second or not first:
        yield f"the fingerprint must be a text that stays the same, not {first!r} and then {second!r}"


def nothing_is_trained_on_that_is_held_out(source: Source) -> Iterator[str]:
    """No prompt is in both splits."""
    prompts = [{repr(row.prompt) for row in _rows(source, split)} for split in _SPLITS]
    if shared := prompts[0] & prompts[1]:
        yield f"{len(shared)} prompts are in both splits, such as {min(shared):.100}"


def limits_are_respected(source: Source) -> Iterator[str]:
    """`train_limit` and `eval_limit` limit the rows."""
    limited = dataclasses.replace(source, train_limit=3, eval_limit=2)
    for split, most in (("train", 3), ("eval", 2)):
        if (found := len(_rows(limited, split))) > most:  # type: ignore[arg-type]
            yield f"{split}_limit={most} gives {found} rows; use `self.limited(split)`"


CONTRACTS: tuple[Contract, ...] = (
    *EVERY_PART,
    there_are_rows_to_train_on_and_to_hold_out,
    the_same_rows_every_time,
    nothing_is_trained_on_that_is_held_out,
    limits_are_respected,
)
