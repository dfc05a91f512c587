"""Holds out rows by prompt: no prompt is in both splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from alignlab.data.conversations import prompt_key
from alignlab.data.fingerprint import digest
from alignlab.data.rows import Loaded, Split
from alignlab.errors import DataError


def divided(loaded: Loaded[Any], share: float, path: str) -> dict[Split, Loaded[Any]]:
    """The rows of both splits, if about `share` of the rows is held out. `path` names the rows in errors.

    Rows that were left out before are counted for the training split. Raises DataError if all rows have one prompt.
    """
    held_out = _held_out(loaded.rows, share, path)
    train = [row for i, row in enumerate(loaded.rows) if i not in held_out]
    return {"train": loaded.with_rows(train), "eval": Loaded([loaded.rows[i] for i in sorted(held_out)])}


def _held_out(rows: Sequence[Any], share: float, path: str) -> set[int]:
    """Indices of the held-out rows: all rows of some prompts, together about `share` of all rows.

    Prompts are taken in the order of a digest of their text, so the result depends neither on the order of the rows nor
    on the objective. A prompt with more rows than are still needed is skipped. If every prompt has too many rows, the
    prompt with the fewest rows is taken. Raises DataError if all rows have the same prompt.
    """
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[prompt_key(row.prompt)].append(place)
    if len(groups) < 2:
        count = f"all {len(rows)} rows of {path} have" if len(rows) > 1 else f"the only row of {path} has"
        raise DataError(
            f"{count} the same prompt, so no part of them can be held out\n"
            "  type: data.eval_path=<a file with rows to evaluate on>"
        )
    order = [places for _, places in sorted(groups.items(), key=lambda group: digest([group[0].encode()]))]
    wanted = min(max(1, round(len(rows) * share)), len(rows) - 1)
    held_out: set[int] = set()
    for places in order:
        if len(held_out) + len(places) <= wanted:
            held_out |= set(places)
    smallest = min(order, key=len)
    return held_out or set(smallest)
