"""Held-out pairs. Every objective is measured on them in the same way, whatever data it trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignlab.data.layout import Layout
from alignlab.data.tokenize import PairTokens
from alignlab.models.reference import Reference


@dataclass(frozen=True)
class HeldOutPairs:
    """Pairs that measure a policy in addition to its own held-out rows.

    reference: the policy before training.
    layout:    how the answers are arranged in a forward pass.
    """

    rows: Sequence[PairTokens]
    reference: Reference
    layout: Layout
