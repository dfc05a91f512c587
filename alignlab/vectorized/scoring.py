"""Log-probabilities of answers under all policies of a vectorized fit, each policy with its own answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from alignlab.data.layout import PLAIN, Layout
from alignlab.types import LabelledLogps, Logps, PairLogps, Requires, halves, join, map_tensors
from alignlab.vectorized.answer_table import AnswerTable
from alignlab.vectorized.batch import ReferenceColumns, VectorizedBatch
from alignlab.vectorized.policy import VectorizedInputs, VectorizedPolicy

# Answers, counted over all policies, that are scored at a time without gradient.
_ANSWERS_AT_ONCE = 4096


class AnswerScorer:
    """Scores answers of a table under P policies, in the shape that the objective needs."""

    def __init__(
        self,
        policy: VectorizedPolicy,
        table: AnswerTable,
        reference: ReferenceColumns | None,
        needs: Requires,
        layout: Layout | None,
    ) -> None:
        """layout: of batches that are the same for all points; None if each point has its own batch."""
        self.policy, self.table, self.reference, self.needs, self.layout = policy, table, reference, needs, layout
        self._whole_table: tuple[VectorizedInputs, ReferenceColumns | None, Tensor] | None = None

    @property
    def answers(self) -> int:
        """Answers of an example through which a gradient flows."""
        return 2 if self.needs.data == "pairs" else 1

    def of_batch(self, batch: VectorizedBatch, *, stats: bool) -> Any:
        """The input of the objective for the batches of all points: P * B examples, point by point."""
        scores = self._of_places(batch.places[:, : self.answers], stats=stats)
        mismatched = None
        if batch.places.shape[1] > self.answers:
            with torch.no_grad():
                mismatched = self._of_places(batch.places[:, self.answers :], stats=False)
        return self.as_examples(scores, batch, mismatched)

    def of_table(self, places: Tensor, *, stats: bool) -> tuple[Logps, Tensor]:
        """(scores of the answers at int64[U] places under every policy, int64[P, U] row of each in these scores)."""
        points, parts, rows = len(self.policy.weights), [], []
        size = max(1, _ANSWERS_AT_ONCE // points)
        for start in range(0, len(places), size):
            part = places[start : start + size]
            given = self.policy.inputs_for_all(self.table.rows_at(part, self.layout or PLAIN))
            parts.append(self._scores(given, self._reference_at(part.repeat(points)), stats=stats))
            rows.append(points * start + torch.arange(points * len(part)).view(points, -1))
        return join(parts), torch.cat(rows, dim=1).to(places.device)

    def imitated(self, places: Tensor) -> Tensor:
        """[P, B] places -> [P] mean tokens per answer, by which an NLL is divided."""
        return self.table.counts[places].float().mean(dim=1)

    def as_examples(self, scores: Logps, batch: VectorizedBatch, mismatched: Logps | None = None) -> Any:
        """Scores of answers as pairs, labelled answers or single answers, as the objective needs them."""
        if self.needs.data == "pairs":
            return PairLogps(*halves(scores))
        if self.needs.data == "completions":
            return scores
        assert batch.desirable is not None
        if mismatched is None and self.needs.mismatched:
            scores, mismatched = halves(scores)
            mismatched = replace(mismatched, stats=None)
        return LabelledLogps(scores, batch.desirable.flatten(), mismatched)

    def _of_places(self, places: Tensor, *, stats: bool) -> Logps:
        """[P, k, B] places -> scores of k * P * B answers: the first answers of all points, then the second ones."""
        _, k, size = places.shape
        if len(self.table) <= k * size:
            given, reference, offset = self._inputs_of_whole_table(len(places), places.device)
            rows = (places + offset).transpose(0, 1).flatten()
        else:
            flat = places.flatten()
            reference = self._reference_at(flat)
            if self.layout is None:
                given = self.policy.inputs_for_each(self.table.plain_rows_at(flat))
            else:
                given = self.policy.inputs_for_all(self.table.rows_at(places[0].flatten(), self.layout))
            rows = torch.arange(len(flat), device=places.device).view_as(places).transpose(0, 1).flatten()
        scores = selected_rows(self._scores(given, reference, stats=stats), rows)
        return replace(scores, mean_count=self.imitated(places[:, 0]).repeat_interleave(size).repeat(k))

    def _inputs_of_whole_table(
        self, points: int, device: torch.device
    ) -> tuple[VectorizedInputs, ReferenceColumns | None, Tensor]:
        """(inputs, reference, [P, 1, 1] row where each point's part begins) of all answers.

        They are used if a batch is no smaller than the table, and made once, because they never change.
        """
        if self._whole_table is None:
            every = torch.arange(len(self.table), device=device)
            offsets = (len(self.table) * torch.arange(points, device=device))[:, None, None]
            inputs = self.policy.inputs_for_all(self.table.plain_rows_at(every))
            self._whole_table = inputs, self._reference_at(every.repeat(points)), offsets
        return self._whole_table

    def _reference_at(self, places: Tensor) -> ReferenceColumns | None:
        return None if self.reference is None else self.reference.at(places)

    def _scores(self, given: VectorizedInputs, reference: ReferenceColumns | None, *, stats: bool) -> Logps:
        """Log-probabilities of the policies, beside those of the reference."""
        scores = self.policy.score(given, collision=self.needs.collision, stats=stats)
        tokens = None if reference is None else reference.tokens
        return Logps(
            scores.tokens,
            given.rows.answer_mask,
            reference=None if reference is None else reference.sums,
            reference_tokens=None if tokens is None else tokens[:, : scores.tokens.shape[1]],
            collision=scores.collision,
            stats=scores.stats,
        )


def selected_rows(values: Logps, rows: Tensor) -> Logps:
    """The given rows of all tensors, in the given order."""
    return map_tensors(values, lambda tensor: tensor[rows])


def places_of_all(parts: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """(different places in all parts, for each part the positions of its places among them)."""
    unique, inverse = torch.cat([part.flatten() for part in parts]).unique(return_inverse=True)
    sizes = [part.numel() for part in parts]
    return unique, list(inverse.split(sizes))
