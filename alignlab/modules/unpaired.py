"""Objectives on single answers that are labelled good or bad."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from alignlab.data.collate import LabelledBatch
from alignlab.modules.answer_metrics import label_metrics, labelled_metrics
from alignlab.modules.base import AlignmentModule
from alignlab.types import LabelledLogps, Logps


class UnpairedModule(AlignmentModule):
    """Trains on the log-probabilities of labelled answers, and of mismatched answers if the objective needs them."""

    def compute_logps(self, batch: LabelledBatch, mean_count: float) -> LabelledLogps:
        answers = self.answers(batch.rows, mean_count)
        return LabelledLogps(answers, batch.desirable, self.compute_without_grad(batch, mean_count))

    def with_gradient(self, batch: LabelledBatch) -> LabelledBatch:
        return replace(batch, mismatched=None)

    def compute_without_grad(self, batch: LabelledBatch, mean_count: float) -> Logps | None:
        """Log-probabilities of the mismatched answers, or None if there are none."""
        if batch.mismatched is None:
            return None
        seen = self.answers(batch.mismatched, mean_count, gradient=False)
        self.raise_if_not_finite(seen.checksum, batch.index, seen)
        return seen

    def attach_without_grad(self, values: LabelledLogps, beside: Logps | None) -> LabelledLogps:
        return replace(values, mismatched=beside)

    def finiteness_check(self, values: LabelledLogps) -> Tensor:
        total = values.answers.checksum
        return total if values.mismatched is None else total + values.mismatched.checksum

    def on_pairs(self, values: LabelledLogps) -> dict[str, Tensor]:
        """`label_metrics` of the held-out rows; empty if the run is measured on pairs instead."""
        measured = self.pairs is not None or values.answers.reference is None
        return {} if measured else label_metrics(values)

    def compute_metrics(self, values: LabelledLogps) -> dict[str, Tensor]:
        return labelled_metrics(values, self.objective.reward)
