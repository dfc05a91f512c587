"""Trains points that differ only in numbers as one model. Each point writes the run that it would write on its own."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignlab.config.plan import Plan
from alignlab.data.fingerprint import row_key
from alignlab.data.layout import Layout
from alignlab.data.order import BatchTransform, indices_of
from alignlab.data.tokenize import Tokens
from alignlab.errors import DamagedError, NotVectorizableError, OutputError, TakenError
from alignlab.integrity import set_aside
from alignlab.runs.directory import RunDir, at_work_elsewhere
from alignlab.runs.heartbeat import Heartbeat
from alignlab.spelling import counted
from alignlab.training.attempt import (
    ending_of,
    log_code_changes,
    log_damage,
    logged_to,
    quiet_libraries,
    record_failure,
    start_attempt,
)
from alignlab.training.callbacks import Checkpoint
from alignlab.training.data_shapes import shape_of
from alignlab.training.dataset import RunRows, batch_transform_of, choose_layout_for, load_starts, reference_requests
from alignlab.training.fit import around_lightning, make_module, make_trainer
from alignlab.training.nonfinite import described, save_rows
from alignlab.training.pairs import pairs_reference
from alignlab.training.run_recorder import RunRecorder
from alignlab.training.setup import InitialPolicy, device_of, reference_pass
from alignlab.training.state import STARTS_ANEW, about, read_state, refuse_other_model, replace_state, updates_in
from alignlab.training.threads import threads_before, threads_for
from alignlab.vectorized.answer_table import AnswerTable
from alignlab.vectorized.batch import ReferenceColumns, VectorizedBatch, VectorizedPairs
from alignlab.vectorized.module import VectorizedModule
from alignlab.vectorized.policy import VectorizedPolicy, vectorization_error

log = logging.getLogger(__name__)

# Number of steps whose rows are looked up together.
_BLOCK = 256


def run_vectorized(
    plans: Sequence[Plan], *, group: str | None = None, overrides: Mapping[str, Sequence[str]] | None = None
) -> dict[str, BaseException | None]:
    """Run the plans of one group (`eligibility.groups`) as one model, each into its own directory.

    - Finished runs are not run again, unless `rerun` is set.
    - Interrupted vectorized runs resume from their last training state.
    - Runs that another process is running are skipped, and so are runs that were begun on their own.

    group:     name of the sweep.
    overrides: run id -> command-line overrides for the record.
    Returns run id -> None, or the error of that run. Skipped runs are left out.
    Raises NotVectorizableError if a check of the model shows that vectorized results would differ. Nothing is trained
    then.
    """
    quiet_libraries()
    with ExitStack() as holding:
        elsewhere = at_work_elsewhere(plan.run for plan in plans)
        free = [plan for plan in plans if _is_locked(plan, holding, elsewhere)]
        done = [plan for plan in free if not plan.needs_training()]
        finished = [plan.id for plan in done]
        by_step: dict[int, list[Plan]] = {}
        damage: list[str] = []
        for plan in free:
            if plan.id not in finished and not _begun_alone(plan):
                step, message = _step_of(plan)
                by_step.setdefault(step, []).append(plan)
                damage += [message] if message else []
        results: dict[str, BaseException | None] = dict.fromkeys(finished)
        for step, members in sorted(by_step.items()):  # points with a damaged state start at step 0, so they come first
            results |= _VectorizedFit(members, step, group, overrides or {}, plans[0].id, damage).run()
            damage = []
            gc.collect()
    return {id: error for id, error in results.items() if not isinstance(error, TakenError)}


def resume_vectorized(plan: Plan, group: str | None, overrides: Sequence[str]) -> None:
    """Resume one interrupted vectorized run as a vectorized fit of one point. The caller must hold the lock of the run.

    Raises the error that ended the run.
    """
    quiet_libraries()
    step, message = _step_of(plan)
    error = _VectorizedFit([plan], step, group, {plan.id: overrides}, plan.id, [message]).run()[plan.id]
    gc.collect()
    if error is not None:
        raise error


def _is_locked(plan: Plan, holding: ExitStack, elsewhere: Mapping[RunDir, bool]) -> bool:
    """Lock a run until `holding` closes. Returns False if another process has it or if it can't be locked.

    A run that can't be locked is tried again on its own, and reports the reason.
    """
    run = plan.run
    try:
        return not elsewhere.get(run) and holding.enter_context(run.locked(wait=False, watched=run in elsewhere))
    except (OSError, OutputError):
        return False


def _begun_alone(plan: Plan) -> bool:
    """Whether an earlier attempt trained this run on its own."""
    return plan.run.checkpoint.exists() and not plan.train.rerun


def _step_of(plan: Plan) -> tuple[int, str]:
    """(updates in the training state of an earlier attempt, message if that state is damaged, else an empty text)."""
    run = plan.run
    return (0, "") if plan.train.rerun else updates_in(run, run.stacked_checkpoint)


class _VectorizedFit:
    """One vectorized fit of several points. All points have made `done` updates."""

    def __init__(
        self,
        plans: Sequence[Plan],
        done: int,
        group: str | None,
        overrides: Mapping[str, Sequence[str]],
        name: str,
        damage: Sequence[str],
    ) -> None:
        """name: id of the point that the record calls the group after (`stack` in run.json).

        damage: messages about damaged training states of these points.
        """
        self.plans, self.done, self.group, self.overrides, self.name = plans, done, group, overrides, name
        self.damage = damage
        self.runs = [plan.run for plan in plans]
        self.results: dict[str, BaseException | None] = {}
        self.points: list[RunRecorder] = []

    def run(self) -> dict[str, BaseException | None]:
        """Train all points, and record how each one begins and ends. Returns run id -> None or its error."""
        changes = {}
        before = threads_before(self.runs[0]) if self.done else None
        for plan, run in list(zip(self.plans, self.runs, strict=True)):
            overrides = self.overrides.get(plan.id, ())
            try:
                facts = {"stacked": len(self.plans), "stack": self.name}
                changes[run] = start_attempt(plan, run, self.group, overrides, done=self.done, **facts)
            except Exception as error:  # for example a file in the way; the other points continue
                taken = isinstance(error, TakenError)
                self.results[run.id] = error if taken else record_failure(run, error, self.group or "vectorized")
                self.plans = [other for other in self.plans if other is not plan]
                self.runs.remove(run)
        if not self.runs:
            return self.results
        threads = threads_for(self.runs, self.plans[0].train.model.parameters, before=before)
        with logged_to(self.runs), Heartbeat(*(run.heartbeat for run in self.runs)), threads:
            how = f"resuming at step {self.done}" if self.done else "starting"
            points, names = counted(len(self.plans), "point"), ", ".join(run.id for run in self.runs)
            log.info("%s as one model: %s (%s)", points, how, names)
            for message in self.damage:
                log_damage(message)
            for run in self.runs:
                log_code_changes(run, changes[run])
            try:
                self._fit(*self._prepare())
            except BaseException as error:
                self._end_all(error)
                raise
        return self.results

    def _prepare(self) -> tuple[list[InitialPolicy], list[RunRows], AnswerTable]:
        """(start of each point, rows of each point, table of all answers). What points share is loaded once."""
        loaded = load_starts(self.plans)
        starts, rows = [start for start, _ in loaded], [own for _, own in loaded]
        distinct = {
            (repr(plan.train.data), plan.train.seed): (plan, own) for plan, own in zip(self.plans, rows, strict=True)
        }
        device = device_of(self.plans[0].train.trainer.accelerator)
        starts[0].model.to(device)
        answers = chain.from_iterable(reference_requests(plan.train, own) for plan, own in distinct.values())
        return starts, rows, AnswerTable(answers, device)

    def _fit(self, starts: Sequence[InitialPolicy], rows: Sequence[RunRows], table: AnswerTable) -> None:
        first = self.plans[0].train
        policy = starts[0].model
        device = table.rows.ids.device
        layout = choose_layout_for(starts[0], rows[0].train)
        orders = _data_orders(self.plans, rows, table)
        shared_layout = layout if len(set(orders)) == 1 else None
        fault = vectorization_error(policy, table, table.longest_answers(), shared_layout)
        if fault:
            raise NotVectorizableError(f"{type(policy).__name__} can't be vectorized: {fault}")
        reference = None
        if first.reference_kind == "cached":
            by_token = first.objective.requires.reference_tokens
            cached = reference_pass(starts[0], table.answers.values(), layout, device, by_token=by_token)
            tokens = cached.tokens(table.rows) if by_token else None
            reference = ReferenceColumns(cached.sums(table.rows), tokens)
        self._log_data_warnings(rows)
        for plan, run, start, loaded in zip(self.plans, self.runs, starts, rows, strict=True):
            run.update(reference_weights=start.weights, data=loaded.record)
            self.points.append(RunRecorder(plan, run, start, loaded, group=self.group, done=self.done))
        members = [make_module(plan.train, policy, layout, None) for plan in self.plans]
        policies = VectorizedPolicy(policy, len(members))
        train_rows = [len(found.train) for found in rows]
        module = VectorizedModule(members, policies, table, reference, train_rows, shared_layout).to(device)
        if self.done:
            module.resume(self._states(module))
        held_out = [_held_out(plan, found, table) for plan, found in zip(self.plans, rows, strict=True)]
        pairs = [_pairs(start, found, table, layout, reference) for start, found in zip(starts, rows, strict=True)]

        def exact_metrics(p: int) -> dict[str, float]:
            policies.write_into(policy, p)
            return self.points[p].exact_metrics(policy)

        def save_rows_of(p: int, step: int, batch: VectorizedBatch) -> None:
            answers = [[table.answer(place) for place in row] for row in batch.places[0].T.tolist()]
            found = zip(batch.index[0].tolist(), answers, strict=True)
            save_rows(self.runs[p], described(step, found, starts[p].tokenizer.decode))

        recorder = _Recorder(self, module, held_out, pairs, exact_metrics, save_rows_of)
        checkpoint = _Checkpoint(self, module)
        trainer = make_trainer(first, self.runs[0], [recorder, checkpoint], max_epochs=1)
        began = time.perf_counter()
        with around_lightning(checkpoint):
            steps = range(self.done, first.trainer.max_steps)
            trainer.fit(module, _Stream(orders, first.trainer.batch_size, first.trainer.sampling, steps, device))
        module.to(device)
        recorder.validate()
        seconds = (time.perf_counter() - began) / len(self.points)
        for p in module.alive:
            policies.write_into(policy, p)
            self._finish(p, policy, seconds)

    def _states(self, module: VectorizedModule) -> list[dict[str, Any]]:
        """The states that the points resume from.

        If a state does not fit, it is renamed and DamagedError is raised. The points are then run one by one.
        """
        kept = module.state_of(0)
        states = []
        for run in self.runs:
            states.append(read_state(run.stacked_checkpoint, run))
            try:
                refuse_other_model(run.stacked_checkpoint, _tensors(states[-1]), _tensors(kept))
            except DamagedError as error:
                log_damage(set_aside(error, STARTS_ANEW))
                raise
        return states

    def _finish(self, p: int, policy: Any, seconds: float) -> None:
        """Finish one point: evaluate, save, and record the result. An error ends this point only."""
        run, point = self.runs[p], self.points[p]
        try:
            outcome = point.finish(policy, seconds)
        except Exception as error:
            self.fail(p, error)
            return
        point.close("done")
        run.end("done", keep=self.plans[p].train.trainer.kept, **outcome)
        self.results[run.id] = None
        log.info("%s: done, in %s", run.id, run.path)

    def fail(self, p: int, error: BaseException) -> None:
        """End one point with an error. The other points continue."""
        run = self.runs[p]
        self.points[p].close(ending_of(error))
        self.results[run.id] = record_failure(run, error, self.group or "vectorized")

    def _end_all(self, error: BaseException) -> None:
        """End all unfinished points with this error."""
        for p, run in enumerate(self.runs):
            if run.id in self.results:
                continue
            if p < len(self.points):
                self.points[p].close(ending_of(error))
            if isinstance(error, NotVectorizableError):
                run.end("interrupted", str(error))
            else:
                record_failure(run, error, self.group)

    def _log_data_warnings(self, rows: Sequence[RunRows]) -> None:
        """Log the objectives' warnings about their data, each text once."""
        warnings: dict[str, None] = {}
        for plan, own in zip(self.plans, rows, strict=True):
            objective = plan.train.objective
            warnings |= dict.fromkeys(objective.data_warnings(shape_of(objective.requires).count(own.train)))
        for warning in warnings:
            log.info("%s", warning)


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {"weights": state["weights"], **state["moments"]}


class _Recorder(pl.Callback):
    """Sends each point's metrics to that point's sinks, and ends points that failed."""

    def __init__(
        self,
        fit: _VectorizedFit,
        module: VectorizedModule,
        held_out: Sequence[VectorizedBatch],
        pairs: Sequence[VectorizedPairs | None],
        exact_metrics: Callable[[int], dict[str, float]],
        save_rows_of: Callable[[int, int, VectorizedBatch], None],
    ) -> None:
        self._exact_metrics, self._save_rows_of = exact_metrics, save_rows_of
        self._fit, self._module, self._held_out, self._pairs = fit, module, held_out, pairs

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        self._retire()
        trainer.should_stop = not self._module.alive
        for p, row in self._module.last_metrics.items():
            self._fit.points[p].metrics.write(row)
        if self._fit.points[0].metrics.due(self._module.step):
            self.validate()

    def validate(self) -> None:
        """Evaluate all points after the current step, once per step."""
        step, points = self._module.step, self._fit.points
        if all(points[p].metrics.eval_metrics.get("train/global_step") == step for p in self._module.alive):
            return
        for p, row in self._module.validate(self._held_out, self._pairs).items():
            points[p].metrics.eval_metrics = row | self._exact_metrics(p)
            points[p].metrics.write(points[p].metrics.eval_metrics)
        self._retire()

    def _retire(self) -> None:
        for p, error in self._module.failures.items():
            if self._fit.runs[p].id not in self._fit.results:
                if p in self._module.failed_batches:
                    self._save_rows_of(p, *self._module.failed_batches[p])
                self._fit.fail(p, error)


class _Checkpoint(Checkpoint):
    """Saves each point's part of the training state into its own directory."""

    def __init__(self, fit: _VectorizedFit, module: VectorizedModule) -> None:
        settings = fit.plans[0].train.trainer
        super().__init__(fit.runs[0], settings.checkpoint_every, settings.checkpoint_minutes)
        self._fit, self._module = fit, module

    def _step(self, trainer: pl.Trainer) -> int:
        return self._module.step

    def save(self, trainer: pl.Trainer) -> None:
        for p in self._module.alive:
            file = self._fit.runs[p].stacked_checkpoint
            scratch = file.with_suffix(".tmp")
            torch.save({**self._module.state_of(p), **about(self._fit.runs[p])}, scratch)
            replace_state(scratch, file)


class _DataOrder:
    """The training rows of one data set in the order of one seed, as places of their answers in the table."""

    def __init__(
        self, rows: Sequence[Tokens], batch_transform: BatchTransform | None, seed: int, table: AnswerTable
    ) -> None:
        self._rows, self._batch_transform, self._seed, self._table = rows, batch_transform, seed, table
        self._index = np.array([row.index for row in rows])
        # -1 until a row is first used; some rows never are
        self._places = np.full((len(rows), len(rows[0].answers())), -1)
        self._desirable = np.array([getattr(row, "desirable", False) for row in rows])
        self.labelled = hasattr(rows[0], "desirable")

    def batches(
        self, size: int, sampling: str, steps: range
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """([S, B, k] places, [S, B] row indices, [S, B] labels) of the batches of these S steps."""
        chosen = indices_of(len(self._rows), size, self._seed, steps, sampling)
        if self._batch_transform is None:
            met = np.unique(chosen)
            new = met[self._places[met, 0] < 0]
            if len(new):
                self._places[new] = self._table.places([self._rows[i].answers() for i in new])
            places = self._places[chosen]
        else:
            batches = [self._batch_transform([self._rows[i] for i in batch]) for batch in chosen]
            places = np.stack([self._table.places([row.answers() for row in batch]) for batch in batches])
        return places, self._index[chosen], self._desirable[chosen]


def _data_orders(plans: Sequence[Plan], rows: Sequence[RunRows], table: AnswerTable) -> list[_DataOrder]:
    """The data order of each point. Points with the same data and seed share one."""
    made: dict[tuple[int, int], _DataOrder] = {}
    for plan, own in zip(plans, rows, strict=True):
        key = (id(own), plan.train.seed)
        if key not in made:
            made[key] = _DataOrder(own.train, batch_transform_of(plan.train), plan.train.seed, table)
    return [made[id(own), plan.train.seed] for plan, own in zip(plans, rows, strict=True)]


class _Stream:
    """Batches of all points, step by step."""

    def __init__(
        self, orders: Sequence[_DataOrder], size: int, sampling: str, steps: range, device: torch.device
    ) -> None:
        self._data_orders, self._size, self._sampling, self._steps, self._device = orders, size, sampling, steps, device

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[VectorizedBatch]:
        labelled = self._data_orders[0].labelled
        for start in range(self._steps.start, self._steps.stop, _BLOCK):
            steps = range(start, min(start + _BLOCK, self._steps.stop))
            batches = {order: order.batches(self._size, self._sampling, steps) for order in set(self._data_orders)}
            places, index, desirable = (
                self._tensor(np.stack([batches[order][part] for order in self._data_orders], axis=1))
                for part in range(3)
            )
            places = places.transpose(2, 3).contiguous()  # [S, P, B, k] -> [S, P, k, B]
            for i in range(len(steps)):
                yield VectorizedBatch(places[i], index[i], desirable[i] if labelled else None)

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device)


def _held_out(plan: Plan, rows: RunRows, table: AnswerTable) -> VectorizedBatch:
    """All held-out rows of one point as one batch with P = 1."""
    batch_transform = batch_transform_of(plan.train)
    examples: Sequence[Tokens] = batch_transform(rows.held_out) if batch_transform else rows.held_out
    places = torch.from_numpy(table.places([row.answers() for row in examples]).T.copy())[None]
    desirable = [getattr(row, "desirable", None) for row in examples]
    device = table.rows.ids.device
    return VectorizedBatch(
        places.to(device),
        torch.tensor([[row.index for row in examples]], device=device),
        None if None in desirable else torch.tensor([desirable], device=device),
    )


def _pairs(
    start: InitialPolicy, rows: RunRows, table: AnswerTable, layout: Layout, reference: ReferenceColumns | None
) -> VectorizedPairs | None:
    """Further held-out pairs of one point, with their log-probabilities under the start (see training/pairs.py)."""
    if not rows.pairs:
        return None
    device = table.rows.ids.device
    places = torch.from_numpy(table.places([row.answers() for row in rows.pairs]).T.copy()).to(device)
    if reference is not None:
        return VectorizedPairs(places, reference.sums[places])
    found = pairs_reference(start, rows, layout, device)
    sums = [[found.table[row_key(*answer)] for answer in row.answers()] for row in rows.pairs]
    return VectorizedPairs(places, torch.tensor(sums, device=device).T)
