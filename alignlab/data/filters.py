"""Filters rows before training. Every row that is left out is counted by reason."""

from __future__ import annotations

from collections import Counter

from alignlab.data.rows import Loaded, Pair


def drop_unusable(pairs: list[Pair], dropped: Counter[str] | None = None) -> Loaded[Pair]:
    """Leave out pairs without a preference: identical answers, or an empty answer.

    dropped: rows that were left out before, by reason. The result's counts include them.
    """
    counts = Counter(dropped or {})
    kept = []
    for pair in pairs:
        if not pair.chosen.strip() or not pair.rejected.strip():
            counts["empty answer"] += 1
        elif pair.chosen == pair.rejected:
            counts["identical answers"] += 1
        else:
            kept.append(pair)
    return Loaded(kept, counts)
