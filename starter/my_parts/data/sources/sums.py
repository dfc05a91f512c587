"""Sums of two digits: the right result is preferred to a wrong one."""

from __future__ import annotations

from dataclasses import dataclass

from alignlab.data.fingerprint import digest
from alignlab.data.rows import Loaded, Pair, Split
from alignlab.data.sources.base import ReferenceTable, Source


@dataclass(kw_only=True)
class Sums(Source):
    """All 100 sums of two digits; those with an even first digit are held out."""

    def fingerprint(self) -> str:
        return digest([b"sums, version 1"])

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        first = range(0, 10, 2) if split == "eval" else range(1, 10, 2)
        rows = [Pair(f"{a} + {b} = ", str(a + b), str(a + b + 1)) for a in first for b in range(10)]
        return Loaded(rows[: self.limited(split)])
