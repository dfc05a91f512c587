"""Which rows a step trains on. This is a pure function of (rows, seed, step)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")

# Rows of a global batch -> the same rows, completed with data from the other rows.
BatchTransform = Callable[[Sequence[Any]], Sequence[Any]]

SAMPLING = ("epochs", "replacement")

# Number of steps whose samples with replacement come from one stream of random numbers.
_BLOCK = 1024


def batch_indices(rows: int, batch_size: int, seed: int, step: int, sampling: str = "epochs") -> NDArray[np.int64]:
    """[batch_size] indices of the rows of global batch `step`."""
    return indices_of(rows, batch_size, seed, range(step, step + 1), sampling)[0]


def indices_of(rows: int, batch_size: int, seed: int, steps: range, sampling: str = "epochs") -> NDArray[np.int64]:
    """[len(steps), batch_size] indices of the rows of several consecutive global batches.

    sampling: "epochs" concatenates one permutation of all rows per epoch and cuts the result every `batch_size` rows.
              "replacement" samples every row of a batch from all rows.
    """
    if sampling == "replacement":
        blocks = range(steps.start // _BLOCK, (steps.stop - 1) // _BLOCK + 1)
        sampled = np.concatenate([_sampled_block(rows, batch_size, seed, block) for block in blocks])
        return sampled[steps.start - blocks.start * _BLOCK :][: len(steps)]
    start, stop = steps.start * batch_size, steps.stop * batch_size
    epochs = range(start // rows, (stop - 1) // rows + 1)
    order = np.concatenate([_permutation(rows, seed, epoch) for epoch in epochs])
    offset = start - epochs.start * rows
    return order[offset : offset + stop - start].reshape(len(steps), batch_size)


@lru_cache(maxsize=64)
def _permutation(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of the rows in an epoch. It is cached, because every step of the epoch needs it."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


@lru_cache(maxsize=64)
def _sampled_block(rows: int, batch_size: int, seed: int, block: int) -> NDArray[np.int64]:
    """[_BLOCK, batch_size] indices of the rows of the batches of a block of steps, sampled with replacement."""
    return np.random.default_rng([seed, block]).integers(rows, size=(_BLOCK, batch_size))


def rows_used(rows: int, batch_size: int, seed: int, steps: int, sampling: str = "epochs") -> list[int]:
    """Indices of the rows that a run of `steps` updates trains on at least once, in increasing order."""
    if sampling == "epochs" and steps * batch_size >= rows:  # the first epoch sees every row
        return list(range(rows))
    return [int(i) for i in np.unique(indices_of(rows, batch_size, seed, range(steps), sampling))]


def rows_of_run(
    rows: Sequence[Item],
    batch_size: int,
    seed: int,
    steps: int,
    batch_transform: BatchTransform | None,
    sampling: str = "epochs",
) -> Sequence[Item]:
    """The rows that a run of `steps` updates trains on, after `batch_transform`.

    With a transform, a row appears once for each batch that it is in; without one, it appears once.
    """
    if batch_transform is None:
        return [rows[i] for i in rows_used(len(rows), batch_size, seed, steps, sampling)]
    batches = indices_of(len(rows), batch_size, seed, range(steps), sampling)
    return [row for indices in batches for row in batch_transform([rows[i] for i in indices])]
