"""Noise in the labels of training rows, and imbalance of their classes, for any data source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignlab.checks import Checked, at_least, within
from alignlab.data.rows import Labelled, LeftOut, Loaded, Pair, Ranking
from alignlab.errors import Problem


@dataclass(kw_only=True)
class Noise(Checked):
    """What is changed in the training rows after they are read. Held-out rows keep their labels.

    flipped:        share of the rows whose label is flipped, in [0, 0.5]: a pair's answers are exchanged, a good answer
                    becomes bad and a bad one good, and the order of a ranking is reversed.
    desirable_kept: share of the good answers that objectives on labelled answers get, in [0, 1]. All bad answers are
                    kept. Labels are flipped first.
    seed:           decides which rows. With a larger share, the same rows and more are chosen.
    """

    flipped: float = 0.0
    desirable_kept: float = 1.0
    seed: int = 0

    def problems(self) -> Iterator[Problem]:
        yield from within("flipped", self.flipped, 0.0, 0.5, example=0.1, hint="at 0.5 labels are pure chance")
        yield from within("desirable_kept", self.desirable_kept, 0.0, 1.0, example=0.1)
        yield from at_least("seed", self.seed, 0, example=0)


def with_noise(loaded: Loaded[Any], noise: Noise) -> tuple[Loaded[Any], int]:
    """(the rows with noise, how many labels were flipped). Rows without labels are not changed."""
    rows = list(loaded.rows)
    if not rows or not isinstance(rows[0], Pair | Labelled | Ranking):
        return loaded, 0
    chosen = _share(np.random.default_rng([noise.seed, 1]), len(rows), noise.flipped)
    rows = [flip(row) if flipped else row for row, flipped in zip(rows, chosen, strict=True)]
    if not isinstance(rows[0], Labelled):
        return loaded.with_rows(rows), int(chosen.sum())
    kept = _balanced(rows, noise)
    left_out = [
        LeftOut("data.noise.desirable_kept", row.place) for row, keep in zip(rows, kept, strict=True) if not keep
    ]
    return loaded.with_rows([row for row, keep in zip(rows, kept, strict=True) if keep], left_out), int(chosen.sum())


def flip(row: Pair | Labelled | Ranking) -> Pair | Labelled | Ranking:
    """The row with the opposite label."""
    if isinstance(row, Labelled):
        return replace(row, desirable=not row.desirable)
    if isinstance(row, Ranking):
        low, high = min(row.grades), max(row.grades)
        return replace(row, grades=[low + high - grade for grade in row.grades])
    return replace(
        row,
        chosen=row.rejected,
        rejected=row.chosen,
        chosen_ended=row.rejected_ended,
        rejected_ended=row.chosen_ended,
    )


def _balanced(rows: Sequence[Labelled], noise: Noise) -> NDArray[np.bool_]:
    """bool[rows], False for good answers that are left out."""
    good = np.array([row.desirable for row in rows])
    kept = ~good
    kept[good] = _share(np.random.default_rng([noise.seed, 2]), int(good.sum()), noise.desirable_kept)
    return kept


def _share(rng: np.random.Generator, count: int, share: float) -> NDArray[np.bool_]:
    """bool[count], True for round(share * count) random places. A larger share contains the places of a smaller one."""
    chosen = np.zeros(count, dtype=bool)
    chosen[rng.permutation(count)[: round(share * count)]] = True
    return chosen
