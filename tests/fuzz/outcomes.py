"""Counts the outcomes of a corpus, and adds them to the file that docs/reference/faults.md is made from."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.fuzz.forked import Ended

# Names of variables: the file that outcomes are added to, without which nothing is written, and the part of a corpus
# that is run (10: each tenth case).
FILE, STRIDE = "ALIGNLAB_FUZZ_OUTCOMES", "ALIGNLAB_FUZZ_STRIDE"


def run_all(corpus: str, cases: Iterable[Any], run: Callable[[Any], tuple[str, Ended]]) -> None:
    """Run the cases of a corpus. Fails with every case that ended in another way than accepted or refused in words.

    corpus: its name; empty for a few cases that are not counted.
    run:    case -> (kind of its input, how it ended).
    """
    counts: Counter[tuple[str, str]] = Counter()
    bad, whole = [], list(cases)
    for case in whole[:: int(os.environ.get(STRIDE, "1")) if corpus else 1]:
        kind, ended = run(case)
        counts[kind, ended.kind] += 1
        if not ended.is_good:
            bad.append(f"{case}: {ended.kind} (code {ended.code}, {ended.left})\n{ended.text[-1500:]}")
    _add(corpus, counts, len(whole))
    assert not bad, f"{len(bad)} of {sum(counts.values())} cases:\n\n" + "\n\n".join(bad)


def _add(corpus: str, counts: Counter[tuple[str, str]], whole: int) -> None:
    if not (corpus and (name := os.environ.get(FILE))):
        return
    file = Path(name)
    known = json.loads(file.read_text()) if file.is_file() else {}
    rows = [{"kind": kind, "outcome": outcome, "count": n} for (kind, outcome), n in sorted(counts.items())]
    known[corpus] = {"cases": whole, "rows": rows}
    file.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
