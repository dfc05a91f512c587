"""Objectives on single answers."""

from __future__ import annotations

from torch import Tensor

from alignlab.data.collate import CompletionBatch
from alignlab.models.logps import answer_logps
from alignlab.modules.base import AlignmentModule
from alignlab.types import Logps


class SFTModule(AlignmentModule):
    """Log-probabilities of answers in, loss out; with token normalisation the loss is the NLL per answer token."""

    def losses(self, batch: CompletionBatch) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        return self.objective(Logps(answer_logps(self.policy, batch.rows), batch.rows.answer_mask)), {}
