"""Many points of a sweep as one module: one forward for all, and for each its own rows, numbers, clipping and rate.

What a point is measured and checked by is its own ordinary module (alignlab/modules/base.py); this one makes the
forward, the gradients and the updates. No point sees another one's numbers: one that diverges ends by itself.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
from torch import Tensor

from alignlab.data.layout import PLAIN, Layout
from alignlab.errors import AlignlabError
from alignlab.models.logps import AnswerScores
from alignlab.models.tolerances import tolerance_of
from alignlab.modules.answer_metrics import preference_metrics
from alignlab.modules.base import AlignmentModule, gradient_not_finite, non_finite
from alignlab.types import LabelledLogps, Logps, PairLogps, halves, join, map_tensors
from alignlab.vectorized.answer_table import AnswerTable
from alignlab.vectorized.policy import VectorizedInputs, VectorizedPolicy

# Answers of all policies that are scored at a time where no gradient is kept.
_ANSWERS_AT_ONCE = 4096

_EACH_ITS_OWN = "each its own"

Made = TypeVar("Made")

# Of all points: [P, D] gradient, [P] its norms, and metrics of those points that are to be logged.
Update = tuple[Tensor, Tensor, dict[int, dict[str, float]]]


@dataclass(frozen=True, eq=False)
class VectorizedBatch:
    """Examples as places of their answers in a table.

    places:    int64[P, k, B]; of pairs the preferred and the dispreferred answers, else the answers and, where there
               are any, the mismatched ones.
    index:     int64[P, B] each example's place in its split.
    desirable: bool[P, B] of labelled answers, or None.
    """

    places: Tensor
    index: Tensor
    desirable: Tensor | None


@dataclass(frozen=True, eq=False)
class VectorizedPairs:
    """Held-out pairs that a point is measured on in addition to its own held-out rows.

    places:    int64[2, N] of the preferred and the dispreferred answers in the table.
    reference: [2, N] summed log-probabilities under the policy as it was before training, nats.
    """

    places: Tensor
    reference: Tensor


@dataclass(frozen=True, eq=False)
class ReferenceColumns:
    """Reference log-probabilities of a table's answers, nats: sums [M], and token by token [M, T] or None."""

    sums: Tensor
    tokens: Tensor | None


class VectorizedModule(pl.LightningModule):
    """P points in one fit. `members` are their ordinary modules, which share one policy that is not trained itself."""

    def __init__(
        self,
        members: Sequence[AlignmentModule],
        policy: VectorizedPolicy,
        table: AnswerTable,
        reference: ReferenceColumns | None,
        train_rows: Sequence[int],
        layout: Layout | None,
    ) -> None:
        """train_rows: how many rows there are to train on, for each point.

        layout: of batches that are the same for all points; None where each has its own.
        """
        super().__init__()
        self.automatic_optimization = False
        self.members = tuple(members)
        self.policy = policy
        self.table = table
        self.reference = reference
        self.train_rows = train_rows
        self.layout = layout
        first = members[0]
        self.needs = first.objective.requires
        self.moments = {name: torch.zeros_like(policy.weights.data) for name in first.optim_config.moments or ()}
        self.tokens_seen = torch.zeros(len(members), dtype=torch.int64)
        self.step = 0
        self.failures: dict[int, AlignlabError] = {}
        self.last_metrics: dict[int, dict[str, float]] = {}
        self._objective: Any = None  # one for all points, or _EACH_ITS_OWN; None before a look
        self._optim = with_numbers([m.optim_config for m in members], lambda numbers: numbers.double()[:, None])
        self._clips = any(m.clip > 0 for m in members)
        self._limit = torch.tensor([m.clip if m.clip > 0 else math.inf for m in members])
        self._rates: list[float] = []
        self._rate: float | Tensor = 0.0
        self._whole: Any = None  # the whole table as it is given, its reference, and where each point's part begins
        self._step_ended = 0.0

    @property
    def alive(self) -> list[int]:
        """Points that have not failed."""
        return [p for p in range(len(self.members)) if p not in self.failures]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch

    def configure_optimizers(self) -> None:
        return None  # the update is made here, each point with its own numbers

    def on_train_start(self) -> None:
        self._step_ended = time.perf_counter()

    def training_step(self, batch: VectorizedBatch, batch_idx: int) -> None:
        """One update of every point that is alive."""
        began = time.perf_counter()
        first = self.members[0]
        logged = first.should_log(self.step)
        gradient, norms, means = self._gradient(batch, logged=logged)
        rates = self._update(gradient, norms)
        tokens = self.table.rows.lengths[batch.places[:, : self._answers]].sum(dim=(1, 2)).cpu()
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
        """Metrics of every point that has not failed, over its held-out rows as one batch, and over its pairs."""
        asked = [batch.places.flatten() for batch in held_out]
        asked += [pair.places.flatten() for pair in pairs if pair is not None]
        unique, inverse = torch.cat(asked).unique(return_inverse=True)
        sizes = [part.numel() for part in asked]
        places_of = iter(inverse.split(sizes))
        rows_at, pairs_at = [next(places_of) for _ in held_out], [next(places_of) if pair else None for pair in pairs]
        points, parts, order = len(self.members), [], []
        size = max(1, _ANSWERS_AT_ONCE // points)
        for start in range(0, len(unique), size):
            places = unique[start : start + size]
            given = self.policy.given_all(self.table.laid_out(places, self.layout or PLAIN))
            found = self._score(given, stats=self.members[0].token_stats)
            parts.append(self._logps(found, given, self._reference_of(places.repeat(points))))
            order.append(points * start + torch.arange(points * len(places)).view(points, -1))
        whole, rows = join(parts), torch.cat(order, dim=1).to(unique.device)  # [P, U] row of each answer of each point
        results = {}
        for p, batch in enumerate(held_out):
            if p in self.failures:
                continue
            seen = _selected_rows(whole, rows[p][rows_at[p]])
            imitated = float(self._imitated(batch.places[:, 0]))
            values = self._values(replace(seen, mean_count=imitated), batch)
            error = non_finite(self.members[p].finiteness_check(values), batch.index[0], self.step, values)
            if error:
                self.failures[p] = error
                continue
            on_pairs = self.members[p].on_pairs(values)
            if (pair := pairs[p]) is not None:
                both = _selected_rows(whole, rows[p][pairs_at[p]])
                on_pairs = preference_metrics(PairLogps(*halves(replace(both, reference=pair.reference.flatten()))))
            means = self.members[p].metric_values(self.members[p].with_state(values, update=False))
            means |= {name: float(value) for name, value in on_pairs.items()}
            results[p] = {
                "train/global_step": self.step,
                **{f"eval/{name}": value for name, value in means.items()},
            }
        return results

    def state_of(self, point: int) -> dict[str, Any]:
        """All that one point needs to go on."""
        return {
            "step": self.step,
            "weights": self.policy.weights.data[point].cpu().clone(),
            "moments": {name: values[point].cpu().clone() for name, values in self.moments.items()},
            "tokens": int(self.tokens_seen[point]),
            "objective_state": self.members[point].state,
        }

    def resume(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on from the points' states, all after the same step."""
        for point, state in enumerate(states):
            self.policy.weights.data[point] = state["weights"]
            for name, values in state["moments"].items():
                self.moments[name][point] = values
            self.tokens_seen[point] = state["tokens"]
            self.members[point].state = state["objective_state"]
        self.step = int(states[0]["step"])

    @property
    def _answers(self) -> int:
        """Answers of an example through which a gradient flows."""
        return 2 if self.needs.data == "pairs" else 1

    @property
    def _coupled(self) -> bool:
        """Whether a row's loss hangs on other rows: mismatched answers give one KL for a whole batch."""
        return self.needs.couples_batch or self.needs.mismatched

    def _look(self, batch: VectorizedBatch, *, stats: bool) -> Any:
        """What the objective is given of all points' batches: P * B examples, point by point."""
        k = self._answers
        seen = self._seen(batch.places[:, :k], stats=stats)
        others = None
        if batch.places.shape[1] > k:
            with torch.no_grad():
                others = self._seen(batch.places[:, k:], stats=False)
        return self._values(seen, batch, others)

    def _seen(self, places: Tensor, *, stats: bool) -> Logps:
        """[P, k, B] places -> log-probabilities of k * P * B answers: first answers of all points, then second ones."""
        points, k, size = places.shape
        if len(self.table) <= k * size:  # the whole table is no more than a batch, and what is given never changes
            if self._whole is None:
                every = torch.arange(len(self.table), device=places.device)
                self._whole = (
                    self.policy.given_all(self.table.take(every)),
                    self._reference_of(every.repeat(points)),
                    (len(self.table) * torch.arange(points, device=places.device))[:, None, None],
                )
            given, reference, offset = self._whole
            rows = (places + offset).transpose(0, 1).flatten()
        else:
            flat = places.flatten()
            reference = self._reference_of(flat)
            if self.layout is None:
                given = self.policy.given_each(self.table.take(flat))
            else:
                given = self.policy.given_all(self.table.laid_out(places[0].flatten(), self.layout))
            rows = torch.arange(len(flat), device=places.device).view_as(places).transpose(0, 1).flatten()
        found = self._logps(self._score(given, stats=stats), given, reference)
        seen = map_tensors(found, lambda tensor: tensor[rows])
        return replace(seen, mean_count=self._imitated(places[:, 0]).repeat_interleave(size).repeat(k))

    def _imitated(self, places: Tensor) -> Tensor:
        """[P, B] places -> [P] tokens per answer that an NLL would be taken of."""
        return self.table.counts[places].float().mean(dim=1)

    def _score(self, given: VectorizedInputs, *, stats: bool) -> AnswerScores:
        return self.policy.score(given, collision=self.needs.collision, stats=stats)

    def _reference_of(self, places: Tensor) -> ReferenceColumns | None:
        """The reference of the answers at int64[n] places."""
        if self.reference is None:
            return None
        tokens = self.reference.tokens
        return ReferenceColumns(self.reference.sums[places], None if tokens is None else tokens[places])

    def _logps(self, found: AnswerScores, given: VectorizedInputs, reference: ReferenceColumns | None) -> Logps:
        """Answers with what the objective needs of the reference."""
        sums = None if reference is None else reference.sums
        tokens = None if reference is None else reference.tokens
        return Logps(
            found.tokens,
            given.rows.answer_mask,
            reference=sums,
            reference_tokens=None if tokens is None else tokens[:, : found.tokens.shape[1]],
            collision=found.collision,
            stats=found.stats,
        )

    def _values(self, seen: Logps, batch: VectorizedBatch, others: Logps | None = None) -> Any:
        """Answers in the shape that the objective works on."""
        if self.needs.data == "pairs":
            return PairLogps(*halves(seen))
        if self.needs.data == "completions":
            return seen
        assert batch.desirable is not None
        if others is None and self.needs.mismatched:
            seen, others = halves(seen)
            others = replace(others, stats=None)
        return LabelledLogps(seen, batch.desirable.flatten(), others)

    def _losses(self, values: Any, batch: VectorizedBatch) -> Tensor:
        """[P, B] each point's loss of each of its examples, by its own numbers."""
        if self._objective is None:
            self._objective = self._objective_of_all(values, batch) or _EACH_ITS_OWN
        if self._objective is _EACH_ITS_OWN:
            return self._one_by_one(values, batch, update=True)
        return self._objective(values).view_as(batch.index)

    def _gradient(self, batch: VectorizedBatch, *, logged: bool) -> Update:
        """Of an update: its gradient, and if logged the metrics of points alive. Ends points that are not finite."""
        values = self._look(batch, stats=logged and self.members[0].token_stats)
        losses = self._losses(values, batch)
        (gradient,) = torch.autograd.grad(losses.mean(dim=1).sum(), self.policy.weights)
        norms = gradient.norm(dim=1)
        finite = bool(torch.isfinite(norms).all())
        if logged or not finite:
            values = map_tensors(values, torch.Tensor.detach)
        means = {p: self._means(values, p, batch) for p in self.alive} if logged else {}
        if self.step == 0:
            self._check_start(means, values, batch)
        if not finite:
            self._retire(values, losses.detach(), norms, batch)
        return gradient, norms, means

    def _one_by_one(self, values: Any, batch: VectorizedBatch, *, update: bool) -> Tensor:
        losses = []
        for p, member in enumerate(self.members):
            mine = member.with_state(self._of(values, p, batch), update=update and p not in self.failures)
            losses.append(member.objective(mine))
        return torch.stack(losses)

    def _objective_of_all(self, values: Any, batch: VectorizedBatch) -> Any:
        """One objective whose numbers are those of each example's point; None where that is not the same.

        The same it is where rows are independent and numbers are only calculated with. Whether they are is looked at:
        loss and gradient of values like these, but away from the reference, against those of each point by itself.
        """
        objectives = [member.objective for member in self.members]
        size = batch.index.shape[1]
        other = [
            f.name for f in fields(objectives[0]) if _differ(objectives, f.name) and not _numeric(objectives, f.name)
        ]
        if self._coupled or objectives[0].initial_state() is not None or other:
            return None
        made = with_numbers(objectives, lambda numbers: numbers.to(self.policy.weights).repeat_interleave(size))
        generator = torch.Generator().manual_seed(0)

        def moved(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            noise = torch.rand(tensor.shape, generator=generator).to(tensor)
            return (tensor.detach() - noise).requires_grad_()

        trial = map_tensors(values, moved)
        try:
            found = made(trial).view_as(batch.index)
            alone = self._one_by_one(trial, batch, update=False)
            slopes = [_slopes(losses, trial) for losses in (found, alone)]
        except (RuntimeError, TypeError, ValueError):  # a number that something is decided by, for one
            return None
        same = self._same(found, alone) and all(self._same(a, b) for a, b in zip(*slopes, strict=True))
        return made if same else None

    def _same(self, found: Tensor, expected: Tensor) -> bool:
        """Whether numbers computed for all points at once are those of each point, but for rounding."""
        tolerance = tolerance_of(self.policy).rearranged
        return torch.allclose(found, expected, rtol=tolerance, atol=tolerance)

    def _of(self, values: Any, point: int, batch: VectorizedBatch) -> Any:
        """One point's examples."""
        size = batch.index.shape[1]
        rows = slice(point * size, (point + 1) * size)
        return map_tensors(values, lambda tensor: tensor[rows])

    def _means(self, values: Any, point: int, batch: VectorizedBatch) -> dict[str, float]:
        member = self.members[point]
        return member.metric_values(member.with_state(self._of(values, point, batch), update=False))

    def _check_start(self, means: dict[int, dict[str, float]], values: Any, batch: VectorizedBatch) -> None:
        for p in self.alive:
            try:
                self.members[p].check_start(means[p]["loss"], self._of(values, p, batch))
            except AlignlabError as error:
                self.failures[p] = error

    def _retire(self, values: Any, losses: Tensor, norms: Tensor, batch: VectorizedBatch) -> None:
        """Points that are not finite end here, with what is wrong in the words of a run by itself."""
        for p in self.alive:
            if not math.isfinite(norm := float(norms[p])):
                seen = self._of(values, p, batch)
                error = non_finite(self.members[p].finiteness_check(seen) + losses[p], batch.index[p], self.step, seen)
                self.failures[p] = error or gradient_not_finite(norm, self.step)

    def _update(self, gradient: Tensor, norms: Tensor) -> list[float]:
        """Clip and update every point; returns the rates."""
        optims = [member.optim_config for member in self.members]
        rates = [optim.lr * optim.factor(self.step, self.members[0].max_steps) for optim in optims]
        if rates != self._rates:  # seldom the case with a constant schedule
            self._rates, self._rate = rates, _column(rates)
        if self._clips:
            scale = (self._limit.to(norms) / (norms + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
            gradient = gradient * scale[:, None]
        weights = self.policy.weights.data
        # Of a point that has failed this may be anything: no row of [P, D] enters another one's.
        weights.copy_(self._optim.update(weights, gradient, self.moments, self._rate, self.step + 1))
        return rates


def _selected_rows(values: Logps, rows: Tensor) -> Logps:
    """The given rows of all tensors, in the given order."""
    return map_tensors(values, lambda tensor: tensor[rows])


def with_numbers(instances: Sequence[Made], spread: Callable[[Tensor], Tensor]) -> Made:
    """One instance for all, where numbers that differ are `spread` of the tensor [P] of them, in float64."""
    made = copy.copy(instances[0])
    for field in fields(made):  # type: ignore[arg-type]
        if _differ(instances, field.name) and _numeric(instances, field.name):
            numbers = torch.tensor([getattr(one, field.name) for one in instances], dtype=torch.float64)
            setattr(made, field.name, spread(numbers))
    return made


def _differ(instances: Sequence[Any], name: str) -> bool:
    return any(getattr(one, name) != getattr(instances[0], name) for one in instances)


def _numeric(instances: Sequence[Any], name: str) -> bool:
    return all(type(getattr(one, name)) in (int, float) for one in instances)


def _column(numbers: Sequence[float]) -> float | Tensor:
    """One number where all are the same, else [P, 1] in float64."""
    return numbers[0] if len(set(numbers)) == 1 else torch.tensor(numbers, dtype=torch.float64)[:, None]


def _slopes(losses: Tensor, values: Any) -> list[Tensor]:
    """Gradients of the summed losses with respect to all that there is to differentiate with respect to."""
    found = torch.autograd.grad(losses.sum(), _tensors(values), retain_graph=True, allow_unused=True)
    return [torch.zeros(()) if slope is None else slope for slope in found]


def _tensors(values: Any) -> list[Tensor]:
    parts = [getattr(values, field.name) for field in fields(values)]
    own = [part for part in parts if isinstance(part, Tensor) and part.requires_grad]
    return own + [tensor for part in parts if is_dataclass(part) for tensor in _tensors(part)]
