"""Synthetic pairs of a small domain with a rule that knows the better reply: a support desk."""

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
    """Messages to a support desk (alignlab.lab.support_desk): the courteous reply is preferred to the curt one.

    Single answers to imitate are those of a desk where every other reply is curt: what is trained on them is to be
    improved by the pairs.

    pair_count: training pairs.
    seed:       of the messages and phrases; held-out messages are the same for all seeds, and in no training row.
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
        found = exchanges(count, seed=self.seed, held_out=held_out)
        return Loaded([Pair(e.message, e.courteous, e.curt) for e in found][: self.limited(split)])

    def completions(self, split: Split) -> Loaded[Completion]:
        rows = self.pairs(split, None).rows
        curt = np.random.default_rng(self.seed).permutation(len(rows)) % 2 == 0
        texts = [row.rejected if bad else row.chosen for row, bad in zip(rows, curt, strict=True)]
        return Loaded([Completion(row.prompt, text) for row, text in zip(rows, texts, strict=True)])
