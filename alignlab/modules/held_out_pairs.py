"""Held-out pairs, on which every objective is measured in the same way, whatever it is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignlab.data.layout import Layout
from alignlab.data.tokenize import PairTokens
from alignlab.models.reference import Reference


@dataclass(frozen=True)
class HeldOutPairs:
    """Pairs that a policy is measured on in addition to its own held-out rows.

    reference: the policy as it was before training.
    layout:    how the answers are arranged in a forward pass.
    """

    rows: Sequence[PairTokens]
    reference: Reference
    layout: Layout
