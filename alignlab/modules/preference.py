"""Objectives on preference pairs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from alignlab.data.collate import PairBatch
from alignlab.models.logps import answer_logps
from alignlab.models.reference import Reference
from alignlab.modules.base import AlignmentModule
from alignlab.modules.pair_metrics import pair_sums
from alignlab.types import Logps, PairLogps


class PreferenceModule(AlignmentModule):
    """Log-probabilities of chosen and rejected answers in, loss and preference metrics out."""

    def __init__(self, *args: Any, reference: Reference | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reference = reference

    def losses(self, batch: PairBatch) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        pairs = self.pair_logps(batch)
        metrics = pair_sums(pairs, self.objective.requires, self.objective.reward_scale)
        return self.objective(pairs), metrics

    def pair_logps(self, batch: PairBatch) -> PairLogps:
        """One forward for all 2B rows."""
        logps, mask = answer_logps(self.policy, batch.rows), batch.rows.answer_mask
        reference = self.reference(batch) if self.reference else None
        b = len(batch)
        return PairLogps(
            chosen=Logps(logps[:b], mask[:b], reference[:b] if reference is not None else None),
            rejected=Logps(logps[b:], mask[b:], reference[b:] if reference is not None else None),
        )
