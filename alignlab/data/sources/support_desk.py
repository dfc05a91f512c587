"""Synthetic pairs of a small domain, a support desk, where a rule knows the better reply."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from alignlab.checks import within
from alignlab.data.fingerprint import digest
from alignlab.data.rows import Completion, Loaded, Pair, Split
from alignlab.data.sources.base import ReferenceTable, Source
from alignlab.errors import Problem
from alignlab.lab.support_desk import HELD_OUT, exchanges


@dataclass(kw_only=True)
class SupportDesk(Source):
    """Messages to a support desk (alignlab.lab.support_desk). The courteous reply is preferred to the curt one.

    Half of the single answers to imitate are curt, so that preference training can improve a model that imitated them.

    pair_count: number of training pairs.
    seed:       of the messages and phrases. The held-out messages are the same for all seeds and never in a training
                row.
    """

    pair_count: int = 300
    seed: int = 0

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from within("pair_count", self.pair_count, 2, 400 - HELD_OUT, example=300)
        yield from within("eval_limit", self.eval_limit, 1, HELD_OUT, example=HELD_OUT)

    def fingerprint(self) -> str:
        return digest([repr(sorted(asdict(self).items())).encode()])

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        held_out = split == "eval"
        count = self.eval_limit if held_out else self.pair_count
        rows = exchanges(count, seed=self.seed, held_out=held_out)
        return Loaded([Pair(e.message, e.courteous, e.curt) for e in rows][: self.limited(split)])

    def completions(self, split: Split) -> Loaded[Completion]:
        rows = self.pairs(split, None).rows
        curt = np.random.default_rng(self.seed).permutation(len(rows)) % 2 == 0
        texts = [row.rejected if bad else row.chosen for row, bad in zip(rows, curt, strict=True)]
        return Loaded([Completion(row.prompt, text) for row, text in zip(rows, texts, strict=True)])
