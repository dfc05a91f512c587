"""Objectives on single answers that are said to be good or bad."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from alignlab.data.collate import LabelledBatch
from alignlab.modules.answer_metrics import labelled_metrics
from alignlab.modules.base import AlignmentModule
from alignlab.types import LabelledLogps


class UnpairedModule(AlignmentModule):
    """Log-probabilities of labelled (and where the objective asks, of mismatched) answers in, loss and metrics out."""

    def look(self, batch: LabelledBatch, mean_count: float) -> LabelledLogps:
        others = batch.mismatched
        return LabelledLogps(
            self.answers(batch.rows, mean_count),
            batch.desirable,
            None if others is None else self.answers(others, mean_count, gradient=False),
        )

    def with_gradient(self, batch: LabelledBatch) -> LabelledBatch:
        return replace(batch, mismatched=None)

    def finite(self, values: LabelledLogps) -> Tensor:
        total = values.answers.checksum
        return total if values.mismatched is None else total + values.mismatched.checksum

    def measure(self, values: LabelledLogps) -> dict[str, Tensor]:
        return labelled_metrics(values, self.objective.reward)
