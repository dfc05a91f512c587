"""Batches of vectorized runs: examples are given as places of their answers in one table."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class VectorizedBatch:
    """One batch for each of P points. Pairs have k = 2 answers; mismatched answers, if any, follow as further ones.

    places:    int64[P, k, B] places of the answers in the table. Of a pair the preferred answer comes first.
    index:     int64[P, B] each example's place in its split.
    desirable: bool[P, B] of labelled answers, or None.
    """

    places: Tensor
    index: Tensor
    desirable: Tensor | None


@dataclass(frozen=True, eq=False)
class VectorizedPairs:
    """Held-out pairs that a point is measured on in addition to its own held-out rows.

    places:    int64[2, N] of the preferred and the dispreferred answers in the table.
    reference: [2, N] summed log-probabilities under the policy as it was before training, nats.
    """

    places: Tensor
    reference: Tensor


@dataclass(frozen=True, eq=False)
class ReferenceColumns:
    """Reference log-probabilities of a table's answers, nats: sums [M], and token by token [M, T] or None."""

    sums: Tensor
    tokens: Tensor | None

    def at(self, places: Tensor) -> ReferenceColumns:
        """Those of the answers at int64[n] places."""
        return ReferenceColumns(self.sums[places], None if self.tokens is None else self.tokens[places])
