"""Objectives on single answers."""

from __future__ import annotations

from torch import Tensor

from alignlab.data.collate import Batch
from alignlab.modules.answer_metrics import token_metrics
from alignlab.modules.base import AlignmentModule
from alignlab.types import Logps


class SFTModule(AlignmentModule):
    """Trains on the log-probabilities of answers."""

    def compute_logps(self, batch: Batch, mean_count: float) -> Logps:
        return self.answers(batch.rows, mean_count)

    def finiteness_check(self, values: Logps) -> Tensor:
        return values.checksum

    def compute_metrics(self, values: Logps) -> dict[str, Tensor]:
        return token_metrics(values)
