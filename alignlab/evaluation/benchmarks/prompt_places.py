"""Finds the prompt of an evaluation set that each row of a file belongs to, by its `index` or by its instruction.

The row's number in the file does not count, because files lack rows or have another order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from alignlab.evaluation.benchmarks.files import Row
from alignlab.spelling import counted

# Maximum number of rows that a message lists by number. It also gives the count of all of them.
MAX_LISTED = 5


def prompt_places(rows: Sequence[Row], instructions: Sequence[str] | None) -> tuple[list[int], list[str]]:
    """(each row's position in the evaluation set, a line for each kind of fault).

    instructions: the evaluation set's instructions in its order; None if they are unknown. Rows without an `index`
                  need them.
    """
    if all(row.get("index") is not None for row in rows):
        places, wrong = _by_index(rows, instructions)
    elif instructions is not None:
        places, wrong = _by_instruction(rows, instructions)
    else:
        without = [row.get("index") is None for row in rows]
        return [], faulty_rows(without, "no index, so their prompts are not known; name the evaluation set's file")
    counts = Counter(places)
    repeated = [place is not None and counts[place] > 1 for place in places]
    wrong += faulty_rows(repeated, "the same prompt as another row")
    return [-1 if place is None else place for place in places], wrong


def faulty_rows(wrong: Iterable[bool], what: str) -> list[str]:
    """A line for the rows for which `wrong` is true; empty if there are none.

    It has their count, `what` they have, and the first row numbers (from 1).
    """
    flags = list(wrong)
    some = [i for i, flag in enumerate(flags, 1) if flag]
    shown = ", ".join(map(str, some[:MAX_LISTED])) + (", ..." if len(some) > MAX_LISTED else "")
    verb = "has" if len(some) == 1 else "have"
    return [f"{len(some)} of {counted(len(flags), 'row')} {verb} {what} (row {shown})"] if some else []


def _by_index(rows: Sequence[Row], instructions: Sequence[str] | None) -> tuple[list[int | None], list[str]]:
    """Positions by the rows' own index. If instructions are known, a row must have the one at its index."""
    size = math.inf if instructions is None else len(instructions)
    numbers = [_whole_number(row["index"]) for row in rows]
    places = [n if n is not None and 0 <= n < size else None for n in numbers]
    bounds = "from 0 on" if instructions is None else f"from 0 to {size - 1}"
    wrong = faulty_rows((place is None for place in places), f"an index that is not a whole number {bounds}")
    if instructions is not None:
        other = (p is not None and _text(row) != instructions[p] for row, p in zip(rows, places, strict=True))
        wrong += faulty_rows(other, "another instruction than the evaluation set has at their index")
    return places, wrong


def _by_instruction(rows: Sequence[Row], instructions: Sequence[str]) -> tuple[list[int | None], list[str]]:
    """Positions by the instruction's text, which must be in the evaluation set exactly once."""
    place_of = {text: place for place, text in enumerate(instructions)}
    counts = Counter(instructions)
    found = [counts[_text(row)] for row in rows]
    places = [place_of[_text(row)] if count == 1 else None for row, count in zip(rows, found, strict=True)]
    return places, [
        *faulty_rows((count == 0 for count in found), "an instruction that is not in the evaluation set"),
        *faulty_rows((count > 1 for count in found), "an instruction that the evaluation set has more than once"),
    ]


def _text(row: Row) -> str:
    text = row.get("instruction")
    return text if isinstance(text, str) else ""


def _whole_number(value: Any) -> int | None:
    """An index as an integer (pandas writes 3.0 for 3); None if it is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else None
