"""The tasks of a sweep, and the order in which each task finds what it needs. A task runs in any process."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

from alignlab.config.plan import Plan
from alignlab.errors import AlignlabError, NotVectorizableError, PrunedError
from alignlab.pipeline.reference_requests import different_requests
from alignlab.pipeline.run import run_for_policy, run_plan
from alignlab.runs.directory import FINISHED, RunDir
from alignlab.spelling import counted
from alignlab.training.attempt import log_already_finished, reason_of
from alignlab.training.pruning import PruningThresholds
from alignlab.vectorized.eligibility import balanced, groups

log = logging.getLogger(__name__)

# Called with the name of each task that has ended.
OnFinished = Callable[[str], None]


@dataclass(frozen=True)
class RunTask:
    """One run: a point, or the parent of points. Its result, or why it failed, is in its record."""

    plan: Plan
    sweep: str
    overrides: tuple[str, ...] = ()
    thresholds: PruningThresholds | None = None
    _before: dict[str, Any] = field(init=False, compare=False, repr=False)  # state of the record when this was created

    def __post_init__(self) -> None:
        object.__setattr__(self, "_before", self._record_state())

    @property
    def name(self) -> str:
        return self.plan.id

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def run(self) -> RunDir:
        return self.plan.run

    @property
    def logs(self) -> Path:
        return _logs(self.plan, self.sweep)

    def state(self) -> dict[str, Any]:
        """The state of the run in its record. Empty if the run ended before this task was created.

        A finished run whose result is kept (no `rerun`) is not treated as empty.
        """
        state = self.run.state()
        status = state.get("status")
        current = status in ("queued", "running") or (status in FINISHED and not self.plan.train.rerun)
        return state if current or self._record_state() != self._before else {}

    def has_begun(self) -> bool:
        """Whether a new attempt has begun since this task was created."""
        return self._record_state()["attempt"] != self._before["attempt"]

    def is_finished(self) -> bool:
        """Whether nothing is left to do. A run with `evaluation.at_end=true` always counts as unfinished.

        Its evaluation finds out by itself whether it is done.
        """
        train = self.plan.train
        if train.rerun or train.evaluation.at_end:
            return False
        state = self.run.state()
        return state.get("status") in FINISHED and not lacks_evaluation(state, self.plan)

    def _record_state(self) -> dict[str, Any]:
        record = self.run.record()
        return {"attempt": record.get("attempt", 0), **{k: record.get(k) for k in ("status", "reason", "ended")}}

    def __call__(self) -> None:
        """Raises only what stops a sweep."""
        try:
            run_plan(self.plan, group=self.sweep, overrides=self.overrides, thresholds=self.thresholds)
            _after_training(self.plan)
        except PrunedError:
            pass
        except Exception as error:
            status = self.state().get("status")
            if status == "done":  # a step after training failed; the sweep reports it again at its end
                log.error("%s: %s, but %s", self.name, status, reason_of(error))
            elif status not in ("diverged", "failed"):  # the error occurred before the record was begun
                log.error("%s: failed: %s", self.name, error, exc_info=not isinstance(error, AlignlabError))
                self.failed(reason_of(error))

    def failed(self, reason: str) -> None:
        """Write to the record that the run failed, unless another process works on the run."""
        elsewhere = self.run.record().get("status") == "running" and not self.has_begun()
        if elsewhere or self.run.is_locked():
            log.error("%s: %s", self.name, reason)
            return
        try:
            self.run.end("failed", reason, id=self.run.id, sweep=self.sweep)
        except OSError as error:
            log.error("%s: %s, and its record can't be written: %s", self.name, reason, error)

    def with_halved_batch(self) -> RunTask:
        """The same run with half as many rows and tokens per forward pass. Its id does not depend on them."""
        trainer = self.plan.train.trainer
        return self._with(
            micro_batch_size=max(1, trainer.micro_batch_size // 2),
            micro_batch_tokens=max(1, trainer.micro_batch_tokens // 2),
        )

    def compiled(self) -> RunTask:
        """The same run with compiled layers, unless its config chooses otherwise or it continues a vectorized run.

        Vectorized runs are not compiled.
        """
        vectorized = self.run.stacked_checkpoint.is_file() and not self.run.checkpoint.is_file()
        continues_vectorized = vectorized and not self.plan.train.rerun
        return (
            self if continues_vectorized or self.plan.train.trainer.compile != "auto" else self._with(compile="always")
        )

    def resumed(self) -> RunTask:
        """The same run, which continues the attempt that it has begun, also with `rerun`."""
        if not self.has_begun():
            return self
        return replace(self, plan=replace(self.plan, train=replace(self.plan.train, rerun=False)))

    def _with(self, **how: Any) -> RunTask:
        """The same run with other settings of the trainer that its id does not depend on."""
        train = replace(self.plan.train, trainer=replace(self.plan.train.trainer, **how))
        config = {**self.plan.config, "trainer": {**self.plan.config["trainer"], **how}}
        return replace(self, plan=replace(self.plan, train=train, config=config))


@dataclass(frozen=True)
class VectorizedTask:
    """Points that are trained as one model. Points that this leaves without a result are run one by one."""

    points: tuple[RunTask, ...]

    @property
    def name(self) -> str:
        return self.points[0].name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(point.name for point in self.points)

    @property
    def logs(self) -> Path:
        return self.points[0].logs

    def __call__(self) -> None:
        """Raises only what stops a sweep."""
        points = unfinished(self.points, lambda name: None)
        if not points:
            return
        from alignlab.vectorized.fit import run_vectorized  # seconds to import

        plans = [point.plan for point in points]
        overrides = {point.name: point.overrides for point in points}
        parent = plans[0].parent  # the same for all of them
        handled: set[str] = set()
        log.info("%s as one model", counted(len(plans), "point"))
        try:
            if parent is not None and any(plan.needs_training() for plan in plans):
                run_for_policy(parent, self.points[0].sweep)
            handled = set(run_vectorized(plans, group=self.points[0].sweep, overrides=overrides))
        except NotVectorizableError as error:
            log.warning("not vectorized: %s", error)
        except Exception as error:  # for instance too little memory for all of them
            log.error("%s as one model failed, and are run one by one: %s", counted(len(plans), "point"), error)
        gc.collect()  # tensors of a model that failed are in reference cycles
        for point in points:
            if point.name not in handled:
                point()
                continue
            try:
                _after_training(point.plan)
            except Exception as error:  # it is in the record
                log.error("%s: its evaluation failed: %s", point.name, error)


@dataclass(frozen=True)
class ReferenceTask:
    """One pass of the reference over all answers, for points that need different ones."""

    plans: Sequence[Plan] = field(repr=False)
    sweep: str
    name: str = "reference"

    @property
    def logs(self) -> Path:
        return _logs(self.plans[0], self.sweep)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def __call__(self) -> None:
        from alignlab.pipeline.shared_reference import share_reference

        share_reference(self.plans, self.sweep)


Task = RunTask | VectorizedTask | ReferenceTask


def processes_of(task: Task) -> int:
    """Number of processes that a task has, one for each of its devices."""
    return task.plan.train.trainer.devices if isinstance(task, RunTask) else 1


def retries_of(task: Task, how: str | None, *, left: int, out_of_memory: bool = False) -> list[RunTask]:
    """Write to the records how a task's process died. Returns the runs that are tried again.

    how:  what ended the process, in words; None if it ended by itself.
    left: how often the task may be tried again.
    out_of_memory: whether the process was killed for lack of memory.
    """
    if isinstance(task, ReferenceTask):
        if how is not None:
            log.warning("%s: its process ended with %s; see %s", task.name, how, task.logs)
        return []
    points = task.points if isinstance(task, VectorizedTask) else (task,)
    tried = (_retry_of(point, how, left=left, out_of_memory=out_of_memory) for point in points)
    return [again for again in tried if again]


def _retry_of(task: RunTask, how: str | None, *, left: int, out_of_memory: bool) -> RunTask | None:
    state = task.state()
    reason = str(state.get("reason"))
    out_of_memory = out_of_memory or "out of memory" in reason.lower()
    again = task.resumed()
    if how is not None and state.get("status") not in (*FINISHED, "failed"):
        reason = f"its process ended with {how}" + (", out of memory" if out_of_memory else "")
        task.failed(reason)
    elif how is not None and lacks_evaluation(state, task.plan):
        reason = f"its process ended with {how} before it was evaluated"
    elif state.get("status") != "failed" or not out_of_memory:
        return None  # the run ended by itself and would end in the same way again
    if left < 1:
        return None
    again = (
        again.with_halved_batch() if out_of_memory else replace(again)
    )  # created anew, so that it compares with the present record
    rows = counted(again.plan.train.trainer.micro_batch_size, "row")
    smaller = f", with {rows} per forward pass" if out_of_memory else ""
    log.warning("%s: %s; tried again%s", task.name, reason, smaller)
    return again


def with_vectorized(tasks: Sequence[Task], wanted: Callable[[Sequence[Plan]], bool], processes: int = 1) -> list[Task]:
    """The tasks, with groups of points that are `wanted` as one model joined into vectorized tasks.

    Groups are divided into as many parts as keep all processes busy. Finished points count in the groups: so a sweep
    that is continued computes exactly what an uninterrupted one would have.
    """
    points = {task.name: task for task in tasks if isinstance(task, RunTask) and not task.thresholds}
    chosen = filter(wanted, groups([point.plan for point in points.values()])[0])
    parts = [[points[plan.id] for plan in part] for part in balanced(list(chosen), processes) if len(part) > 1]
    vectorized = [VectorizedTask(tuple(part)) for part in parts]
    names = {name for task in vectorized for name in task.names}
    return [*vectorized, *(task for task in tasks if task.name not in names)]


@overload
def unfinished(tasks: Sequence[RunTask], on_finished: Callable[[str], None]) -> list[RunTask]: ...
@overload
def unfinished(tasks: Sequence[Task], on_finished: Callable[[str], None]) -> list[Task]: ...
def unfinished(tasks: Sequence[Task], on_finished: Callable[[str], None]) -> Sequence[Task]:
    """The tasks without runs that have their result, so that no process is started for these.

    `on_finished` is called with the names of these runs.
    """
    left: list[Task] = []
    for task in tasks:
        if isinstance(task, VectorizedTask):
            points = unfinished(task.points, on_finished)
            left += [VectorizedTask(tuple(points))] if points else []
        elif isinstance(task, RunTask) and task.is_finished():
            log_already_finished(task.run)
            on_finished(task.name)
        else:
            left.append(task)
    return left


def preparations(points: Sequence[RunTask]) -> list[list[Task]]:
    """Tasks that come before the points, in waves: their ancestors, oldest first, then the reference."""
    waiting = [point for point in points if point.plan.needs_training()]
    ancestors: dict[int, dict[str, Task]] = {}
    for point in waiting:
        for generation, plan in enumerate(point.plan.chain()[:-1]):
            if plan.needs_training():
                ancestors.setdefault(generation, {})[plan.id] = RunTask(plan, point.sweep)
    waves = [list(ancestors[generation].values()) for generation in sorted(ancestors)]
    plans = [point.plan for point in waiting]
    if different_requests(plans):
        waves.append([ReferenceTask(plans, points[0].sweep)])
    return waves


def blocked_points(points: Sequence[RunTask]) -> Mapping[str, str]:
    """Point -> reason, for points that can't start because an ancestor failed or diverged.

    The reasons are also written to the records of these points.
    """
    found = {}
    for point in points:
        for ancestor in point.plan.chain()[:-1]:
            state = ancestor.run.state()
            if state.get("status") in ("failed", "diverged") and point.plan.needs_training():
                reason = f"{ancestor.id}, which it needs, {state['status']}: {state.get('reason')}"
                point.failed(reason)
                found[point.name] = reason
                break
    return found


def _logs(plan: Plan, sweep: str) -> Path:
    """The folder for the output of a sweep's processes."""
    return Path(plan.train.output_root) / "sweeps" / sweep / "logs"


def compiled_where_it_pays(tasks: Sequence[Task], processes: int, *, gpus: Callable[[], bool]) -> list[Task]:
    """The tasks, with compiled layers for points of small models if this saves time over all points of a process.

    gpus: returns whether the processes compute on GPUs, for which the gain was not measured.
    Finished points count too, so that the same command makes the same choice when it continues a sweep.
    """
    from alignlab.models.efficiency import compiling_pays_for

    points = [task for task in tasks if isinstance(task, RunTask) and task.plan.train.model.parameters]
    updates = sum(point.plan.train.trainer.known_steps for point in points)
    if len(points) < 2 or not compiling_pays_for(updates // processes) or gpus():
        return list(tasks)
    return [task.compiled() if isinstance(task, RunTask) else task for task in tasks]


def this_process_has_gpus() -> bool:
    import torch

    return torch.cuda.is_available()


def lacks_evaluation(state: Mapping[str, Any], plan: Plan) -> bool:
    """Whether a run is done but lacks the evaluation at its end.

    An evaluation that failed is lacking only if the config asks for one.
    """
    if state.get("status") != "done" or not plan.is_evaluated_at_end:
        return False
    failed = bool(state.get("evaluation_failed"))
    return failed if state.get("evaluated") else bool(plan.train.evaluation.at_end) or not failed


def _after_training(plan: Plan) -> None:
    """Evaluate a finished run if it is to be, and delete what need not be kept, unless the evaluation failed."""
    if plan.is_evaluated_at_end:
        from alignlab.pipeline.evaluate import evaluate_at_end  # seconds to import

        evaluate_at_end(plan)
    if plan.train.trainer.keep == "record" and not plan.run.record().get("evaluation_failed"):
        plan.run.keep_record_only()
