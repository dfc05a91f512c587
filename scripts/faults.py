"""Writes docs/reference/faults.md from the outcomes of `make fuzz`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alignlab.cli.main import EXIT_CODES
from alignlab.integrity import write_text

MADE = "<!-- written by `make fuzz` -->"


def page(outcomes: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of docs/reference/faults.md."""
    return "\n".join([*_head(), *_counts(outcomes), *_codes()]) + "\n"


def _head() -> Iterator[str]:
    yield f"# Wrong inputs\n\n{MADE}\n"
    yield (
        "A command with a wrong input ends with a message and one of the exit codes below. It shows no traceback, "
        "leaves nothing half-written, and does not hang. [reliability.md](../reliability.md) lists other faults and "
        "their tests.\n"
    )


def _counts(outcomes: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "## Inputs and outcomes\n"
    yield "`make fuzz` makes these inputs from seeds (`tests/fuzz/`) and runs a command with each of them.\n"
    for name, corpus in sorted(outcomes.items()):
        if (run := sum(row["count"] for row in corpus["rows"])) < corpus["cases"]:
            yield f"Of the {corpus['cases']} {name}, {run} were run, evenly spread.\n"
    kinds = sorted({row["outcome"] for corpus in outcomes.values() for row in corpus["rows"]})
    total: Counter[str] = Counter()
    yield f"| corpus | input | number | {' | '.join(kinds)} |"
    yield "|---|---|---" + "|---" * len(kinds) + "|"
    for name, corpus in sorted(outcomes.items()):
        rows = corpus["rows"]
        for kind in dict.fromkeys(row["kind"] for row in rows):
            counts = Counter({row["outcome"]: row["count"] for row in rows if row["kind"] == kind})
            total += counts
            yield f"| {name} | {kind} | {counts.total()} | {' | '.join(str(counts[one]) for one in kinds)} |"
    yield f"| all | | {total.total()} | {' | '.join(str(total[name]) for name in kinds)} |\n"


def _codes() -> Iterator[str]:
    yield "## Exit codes\n"
    yield "| code | meaning |\n|---|---|"
    yield from (f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:3])
    write_text(target, page(json.loads(source.read_text())))
