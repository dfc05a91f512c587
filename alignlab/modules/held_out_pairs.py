"""Held-out pairs or labelled answers. Every objective is measured on them in the same way, whatever it trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignlab.data.layout import Layout
from alignlab.data.tokenize import LabelledTokens, PairTokens
from alignlab.models.reference import Reference


@dataclass(frozen=True)
class HeldOutPairs:
    """Pairs that measure a policy in addition to its own held-out rows. Labelled answers, if the data has no pairs.

    reference: the policy before training.
    layout:    how the answers are arranged in a forward pass.
    """

    rows: Sequence[PairTokens | LabelledTokens]
    reference: Reference
    layout: Layout

    @property
    def are_labelled(self) -> bool:
        """Whether these are labelled answers."""
        return isinstance(self.rows[0], LabelledTokens)
