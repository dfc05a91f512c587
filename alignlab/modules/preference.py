"""Objectives on preference pairs."""

from __future__ import annotations

from torch import Tensor

from alignlab.data.collate import PairBatch
from alignlab.modules.answer_metrics import pair_metrics, preference_metrics
from alignlab.modules.base import AlignmentModule
from alignlab.types import PairLogps, halves


class PreferenceModule(AlignmentModule):
    """Trains on the log-probabilities of chosen and rejected answers. Logs preference metrics."""

    def compute_logps(self, batch: PairBatch, mean_count: float) -> PairLogps:
        """Log-probabilities of B pairs, by one forward pass of all 2B rows."""
        both = self.answers(batch.rows, mean_count)
        return PairLogps(*halves(both))

    def finiteness_check(self, values: PairLogps) -> Tensor:
        return values.chosen.checksum + values.rejected.checksum

    def compute_metrics(self, values: PairLogps) -> dict[str, Tensor]:
        return pair_metrics(values, self.objective.reward)

    def on_pairs(self, values: PairLogps) -> dict[str, Tensor]:
        """`preference_metrics` of the held-out rows, which are pairs; empty without a reference."""
        return {} if values.chosen.reference is None else preference_metrics(values)
