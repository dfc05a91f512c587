"""Several points of a sweep as one Lightning module: one forward for all, an own loss, gradient and update for each.

Each point has an ordinary module (alignlab/modules/base.py), which computes its metrics and checks it. This module
makes the forward, the gradients and the updates. No numbers pass between points: if one diverges, only that one ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from alignlab.data.layout import Layout
from alignlab.errors import AlignlabError
from alignlab.modules.answer_metrics import preference_metrics
from alignlab.modules.base import AlignmentModule
from alignlab.modules.validity import gradient_not_finite, non_finite
from alignlab.types import Logps, PairLogps, halves, map_tensors
from alignlab.vectorized.answer_table import AnswerTable
from alignlab.vectorized.batch import ReferenceColumns, VectorizedBatch, VectorizedPairs
from alignlab.vectorized.joint_objective import JointObjective, examples_of
from alignlab.vectorized.policy import VectorizedPolicy
from alignlab.vectorized.scoring import AnswerScorer, places_of_all, selected_rows
from alignlab.vectorized.updates import PointwiseUpdates

# [P, D] gradient, [P] its norms, and point -> metrics if they are logged.
Update = tuple[Tensor, Tensor, dict[int, dict[str, float]]]


class VectorizedModule(pl.LightningModule):
    """P points in one fit. `members` are their ordinary modules. The policy that these share is not trained itself."""

    def __init__(
        self,
        members: Sequence[AlignmentModule],
        policy: VectorizedPolicy,
        table: AnswerTable,
        reference: ReferenceColumns | None,
        train_rows: Sequence[int],
        layout: Layout | None,
    ) -> None:
        """train_rows: [P] number of training rows of each point.

        layout: of batches that are the same for all points; None if each point has its own batch.
        """
        super().__init__()
        self.automatic_optimization = False
        self.members = tuple(members)
        self.policy = policy
        self.train_rows = train_rows
        self.tokens_seen = torch.zeros(len(members), dtype=torch.int64)
        self.step = 0
        self.failures: dict[int, AlignlabError] = {}
        # point -> (updates before, its own part of the batch, P = 1) in which a number was not finite
        self.failed_batches: dict[int, tuple[int, VectorizedBatch]] = {}
        self.last_metrics: dict[int, dict[str, float]] = {}
        self._table = table
        self._scorer = AnswerScorer(policy, table, reference, members[0].objective.requires, layout)
        self._objective = JointObjective(self.members, policy)
        self._updates = PointwiseUpdates(self.members, policy.weights.data)
        self._step_ended = 0.0

    @property
    def alive(self) -> list[int]:
        """Points that have not failed."""
        return [p for p in range(len(self.members)) if p not in self.failures]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # its tensors are on the device already

    def configure_optimizers(self) -> None:
        return None  # each point is updated with its own settings

    def on_train_start(self) -> None:
        self._step_ended = time.perf_counter()

    def training_step(self, batch: VectorizedBatch, batch_idx: int) -> None:
        """One update of every point that is alive."""
        began = time.perf_counter()
        logged = self.members[0].should_log(self.step)
        gradient, norms, means = self._gradient(batch, logged=logged)
        rates = self._updates.apply(self.policy.weights.data, gradient, norms, self.step)
        tokens = self._table.rows.lengths[batch.places[:, : self._scorer.answers]].sum(dim=(1, 2)).cpu()
        self.tokens_seen += tokens
        self.step += 1
        before, self._step_ended = self._step_ended, time.perf_counter()
        share = 1 / max(1, len(self.alive))
        self.last_metrics = {
            p: {
                "train/global_step": self.step,
                **{f"train/{name}": value for name, value in means[p].items()},
                "train/learning_rate": rates[p],
                "train/grad_norm": float(norms[p]),
                "train/num_tokens": int(self.tokens_seen[p]),
                "train/epoch": self.step * batch.index.shape[1] / self.train_rows[p],
                "train/tokens/per_second": int(tokens[p]) / (share * (self._step_ended - began)),
                "train/step_seconds": share * (self._step_ended - before),
            }
            for p in (self.alive if logged else ())
        }

    @torch.no_grad()
    def validate(
        self, held_out: Sequence[VectorizedBatch], pairs: Sequence[VectorizedPairs | None]
    ) -> dict[int, dict[str, float]]:
        """point -> metrics over its held-out rows as one batch and over its held-out pairs, for points that are alive.

        Each different answer is scored once under every policy.
        """
        places = [batch.places for batch in held_out] + [pair.places for pair in pairs if pair is not None]
        unique, positions = places_of_all(places)
        scores, rows = self._scorer.of_table(unique, stats=self.members[0].token_stats)
        of_pairs = iter(positions[len(held_out) :])
        metrics = {}
        for p, (batch, pair) in enumerate(zip(held_out, pairs, strict=True)):
            own = selected_rows(scores, rows[p][positions[p]])
            on_pairs = None if pair is None else selected_rows(scores, rows[p][next(of_pairs)])
            if p in self.failures:
                continue
            found = self._validate_point(p, batch, own, pair, on_pairs)
            if found is not None:
                metrics[p] = {
                    "train/global_step": self.step,
                    **{f"eval/{name}": value for name, value in found.items()},
                }
        return metrics

    def _validate_point(
        self, p: int, batch: VectorizedBatch, own: Logps, pair: VectorizedPairs | None, on_pairs: Logps | None
    ) -> dict[str, float] | None:
        """Held-out metrics of one point. None if they are not finite; the point has then failed."""
        member = self.members[p]
        imitated = float(self._scorer.imitated(batch.places[:, 0]))
        values = self._scorer.as_examples(replace(own, mean_count=imitated), batch)
        error = non_finite(member.finiteness_check(values), batch.index[0], self.step, values)
        if error:
            self.failures[p], self.failed_batches[p] = error, (self.step, batch)
            return None
        of_pairs = member.on_pairs(values)
        if pair is not None and on_pairs is not None:
            of_pairs = preference_metrics(PairLogps(*halves(replace(on_pairs, reference=pair.reference.flatten()))))
        means = member.metric_values(member.with_state(values, update=False))
        return means | {name: float(value) for name, value in of_pairs.items()}

    def state_of(self, point: int) -> dict[str, Any]:
        """The training state of one point."""
        return {
            "step": self.step,
            "weights": self.policy.weights.data[point].cpu().clone(),
            "moments": {name: values[point].cpu().clone() for name, values in self._updates.moments.items()},
            "tokens": int(self.tokens_seen[point]),
            "objective_state": self.members[point].state,
        }

    def resume(self, states: Sequence[dict[str, Any]]) -> None:
        """Load the states of all points. They must be of the same step."""
        for point, state in enumerate(states):
            self.policy.weights.data[point] = state["weights"]
            for name, values in state["moments"].items():
                self._updates.moments[name][point] = values
            self.tokens_seen[point] = state["tokens"]
            self.members[point].state = state["objective_state"]
        self.step = int(states[0]["step"])

    def _gradient(self, batch: VectorizedBatch, *, logged: bool) -> Update:
        """The gradient of an update, with metrics of all points if they are logged. Non-finite points fail."""
        values = self._scorer.of_batch(batch, stats=logged and self.members[0].token_stats)
        losses = self._objective.losses(values, batch, list(self.failures))
        (gradient,) = torch.autograd.grad(losses.mean(dim=1).sum(), self.policy.weights)
        norms = gradient.norm(dim=1)
        finite = bool(torch.isfinite(norms).all())
        if logged or not finite:
            values = map_tensors(values, torch.Tensor.detach)
        means = {p: self._means(values, p, batch) for p in self.alive} if logged else {}
        if self.step == 0:
            self._check_start(means, values, batch)
            means = {p: self.members[p].without_rounding(of) for p, of in means.items()}
        if not finite:
            self._fail_non_finite(values, losses.detach(), norms, batch)
        return gradient, norms, means

    def _means(self, values: Any, point: int, batch: VectorizedBatch) -> dict[str, float]:
        member = self.members[point]
        return member.metric_values(member.with_state(examples_of(values, point, batch), update=False))

    def _check_start(self, means: dict[int, dict[str, float]], values: Any, batch: VectorizedBatch) -> None:
        for p in self.alive:
            try:
                self.members[p].check_start(means[p]["loss"], examples_of(values, p, batch))
            except AlignlabError as error:
                self.failures[p] = error

    def _fail_non_finite(self, values: Any, losses: Tensor, norms: Tensor, batch: VectorizedBatch) -> None:
        """Points whose gradient is not finite fail, with the same message as a run on its own."""
        for p in self.alive:
            if not math.isfinite(norm := float(norms[p])):
                own = examples_of(values, p, batch)
                error = non_finite(self.members[p].finiteness_check(own) + losses[p], batch.index[p], self.step, own)
                self.failures[p] = error or gradient_not_finite(norm, self.step)
                own_places = batch.places[p : p + 1, : self._scorer.answers]
                self.failed_batches[p] = self.step, VectorizedBatch(own_places, batch.index[p : p + 1], None)
