"""A run from plan to record: what it starts from first, then itself, once, held against every other process."""

from __future__ import annotations

import errno
import gc
import logging
import shutil
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from omegaconf import OmegaConf

from alignlab.config.plan import Plan
from alignlab.config.schemas import Evaluate
from alignlab.errors import (
    AlignlabError,
    DamagedError,
    DivergedError,
    NotStackableError,
    OutputError,
    ParentError,
    PrunedError,
)
from alignlab.evaluation.judges.base import Judge
from alignlab.integrity import DAMAGE_EXTRA, set_aside
from alignlab.ledger.heartbeat import Heartbeat
from alignlab.ledger.run_dir import FINISHED, RunDir, Status
from alignlab.models.economy import one_thread_where_small
from alignlab.training.bar import Bar

log = logging.getLogger(__name__)

_CANT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_FULL = 2**20  # a disk with less than this many bytes left is full


def run_plan(
    plan: Plan, *, group: str | None = None, overrides: Sequence[str] = (), bar: Bar | None = None
) -> dict[str, Any]:
    """Run a plan and everything it starts from; return the record (run.json) of the run.

    A finished run is not run again (unless `rerun`), an interrupted one resumes from its last checkpoint, and a run
    that another process has in hand is waited for, or left to it (`if_running`).
    """
    run = RunDir.of(plan.train.output_root, plan.id)
    if plan.train.rerun or run.status() not in FINISHED:
        for needed in plan.needed:
            _run_needed(plan, needed, run, group)
    with run.held(wait=plan.train.if_running == "wait") as mine:
        status = run.record().get("status")
        if not mine:
            log.info("%s: another process has it in hand; left to it", run.id)
        elif status in FINISHED and not plan.train.rerun:
            tell_finished(run)
        elif not _went_on_from_a_stack(plan, run, group, overrides, bar):
            _run(plan, run, group, overrides, bar)
    evaluate_at_end(plan)
    return run.record()


def tell_finished(run: RunDir) -> None:
    """Say that there is nothing left to do, and by what other code that was done."""
    log.info("%s: %s already, in %s", run.id, run.record().get("status"), run.path)
    for change in run.made_by_other_code():
        log.warning("%s: was made with another %s", run.id, change)


def _went_on_from_a_stack(
    plan: Plan, run: RunDir, group: str | None, overrides: Sequence[str], bar: Bar | None
) -> bool:
    """Whether a run that we hold was stopped as part of a stack, and was trained from there as a stack of one."""
    if plan.train.rerun or not run.stacked_checkpoint.exists() or run.checkpoint.exists():
        return False
    from alignlab.training.stackable import why_not  # these two import this module
    from alignlab.training.stacked import run_held

    reason = "its search may end it early" if bar else why_not(plan.train)
    try:
        if reason is None:
            run_held(plan, group, overrides)
            return True
    except (NotStackableError, DamagedError) as error:
        reason = str(error)
    log.warning("%s: was begun in a stack, and starts anew: %s", run.id, reason)
    return False


def evaluate_at_end(plan: Plan) -> None:
    """What `alignlab evaluate` would do with this run now, if that was asked for and the run is done."""
    run, train = RunDir.of(plan.train.output_root, plan.id), plan.train
    if not train.evaluation.at_end or run.status() != "done":
        return
    from alignlab.training.evaluate import evaluate  # not needed for training

    try:
        (found,) = evaluate(
            Evaluate(
                run=str(run.path),
                evaluation=train.evaluation,
                judge=train.judge,
                output_root=train.output_root,
                accelerator=train.trainer.accelerator,
                progress=train.trainer.progress,
                trust_remote_code=train.model.allows_remote_code,
            ),
            plan.judges,
        )
    except Exception as error:
        run.update(evaluation_failed=reason_of(error))
        raise
    run.update(evaluated=str(found.folder), evaluation_failed=None)


def lacks_evaluation(state: Mapping[str, Any], plan: Plan) -> bool:
    """Whether a run is done and was to be evaluated at its end, and was not."""
    asked = plan.train.evaluation.at_end and state.get("status") == "done"
    return asked and bool(state.get("evaluation_failed") or not state.get("evaluated"))


def ready_judges(judges: Mapping[str, Judge], plans: Mapping[str, Plan]) -> dict[str, Judge]:
    """Judges that can judge: the runs that some of them are made by are trained, once, or found."""
    made = {}
    for name, plan in plans.items():
        log.info("%s: makes the judge %s", plan.id, name)
        record = run_plan(plan)
        if record["status"] != "done":
            raise ParentError(f"judge {name}: {plan.id} is {record['status']}: {record.get('reason')}")
        made[name] = made_by(plan, judges[name])
    return {**judges, **made}


def made_by(plan: Plan, judge: Judge) -> Judge:
    """A judge that a run of a reward model makes, ready to judge."""
    data, policy = plan.train.data, RunDir.of(plan.train.output_root, plan.id).policy
    plan.train.model.restore_base(str(policy))
    return judge.from_run(policy, max_length=data.max_length, max_prompt_length=data.max_prompt_length)


def _run_needed(plan: Plan, needed: Plan, run: RunDir, group: str | None) -> None:
    """Run what `plan` starts from; where that can't be had, `plan` failed, and its record says whose fault it was."""
    try:
        found = run_plan(needed, group=group)
        if found["status"] == "diverged":
            raise ParentError(f"{needed.id} diverged: {found.get('reason')}")
    except Exception as error:
        with run.held(wait=False) as mine:
            if mine:
                run.end("failed", f"what it starts from can't be had: {reason_of(error)}", id=run.id, sweep=group)
        raise


def _run(plan: Plan, run: RunDir, group: str | None, overrides: Sequence[str], bar: Bar | None) -> None:
    """Train, with the run's directory telling what goes on from beginning to end."""
    import torch

    from alignlab.training.progress import quiet_libraries

    # Imported here: it takes seconds, and a run that is done does not need it.
    from alignlab.training.state import STARTS_ANEW, updates_in

    quiet_libraries()
    done, said = (0, "") if plan.train.rerun else updates_in(run, run.checkpoint)
    try:
        _attempt(plan, run, group, overrides, bar, done, said)
    except DamagedError as error:
        if not done or error.file != run.checkpoint:
            raise
        _attempt(plan, run, group, overrides, bar, 0, set_aside(error, STARTS_ANEW))
    gc.collect()  # a sweep in one process starts its next point with this one's memory free
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _attempt(
    plan: Plan, run: RunDir, group: str | None, overrides: Sequence[str], bar: Bar | None, done: int, damage: str
) -> None:
    """Train from the state after `done` updates to the end.

    damage: what was wrong with an earlier state; empty if nothing was.
    """
    from alignlab.training.fit import fit

    changes = begin(plan, run, group, overrides, done=done)
    small = one_thread_where_small(plan.train.model.parameters)
    with logged_to([run]), Heartbeat(run.heartbeat), small:
        log_damage(damage)
        log.info("%s: %s", run.id, f"resuming at step {done}" if done else "starting")
        tell_of_other_code(run, changes)
        try:
            judges = ready_judges(plan.train.judge, plan.judges) if plan.train.evaluation.every else {}
            run.end("done", **fit(plan, run, group=group, done=done, bar=bar, judges=judges))
        except BaseException as error:
            told = end_badly(run, error, group)
            raise told from (None if told is error else error)
        log.info("%s: done, in %s", run.id, run.path)


def log_damage(said: str) -> None:
    """Log the damage that `updates_in` found. Call it while the logs and records of the damaged runs are open."""
    if said:
        log.warning("%s", said, extra=DAMAGE_EXTRA)


def begin(
    plan: Plan, run: RunDir, group: str | None, overrides: Sequence[str], *, done: int, **facts: Any
) -> list[str]:
    """Start the record of a run that the caller holds and that goes on after `done` updates. Returns how the code
    differs from what it was begun with.

    facts: of a run in a stack, of how many points (`stacked`) and under which point's name (`stack`).
    """
    return run.start(
        OmegaConf.to_yaml(OmegaConf.create(dict(plan.config))),
        fresh=not done,
        resumed_from=done,
        parent=plan.parent.id if plan.parent else None,
        reward=plan.reward.id if plan.reward else None,
        sweep=group,
        overrides=list(overrides),
        config=dict(plan.config),
        kinds=plan.kinds,
        **{"stacked": None, "stack": None, **facts},
    )


def tell_of_other_code(run: RunDir, changes: Sequence[str]) -> None:
    """What `begin` has found."""
    for change in changes:
        log.warning("%s: was begun with another %s", run.id, change)


def end_badly(run: RunDir, error: BaseException, group: str | None) -> BaseException:
    """Put into the record how a run ended that did not come to its end. Returns what to raise: `error`, in words."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        _end(run, "interrupted", "stopped by a signal")
        return error
    if isinstance(error, PrunedError):
        log.info("%s: %s", run.id, error)
        _end(run, "interrupted", str(error))
        return error
    reason = _why_not_written(error, run) or reason_of(error)
    if not isinstance(error, AlignlabError):
        _note(run, "".join(traceback.format_exception(error)))
    status: Status = "diverged" if isinstance(error, DivergedError) else "failed"
    _end(run, status, reason)
    if group:  # a sweep goes on, and tells the rest at its end
        log.error("%s: %s: %s", run.id, status, reason)
    return error if reason == reason_of(error) else OutputError(reason)


def _end(run: RunDir, status: Status, reason: str) -> None:
    """The last word, after what was half-written is gone, which may be what makes room for it."""
    for left_over in run.half_written():
        if left_over.is_dir():
            shutil.rmtree(left_over, ignore_errors=True)
        else:
            left_over.unlink(missing_ok=True)
    try:
        run.end(status, reason)
    except OSError as error:
        log.error("%s: %s (%s), and its record can't be written: %s", run.id, status, reason, error)


def _note(run: RunDir, text: str) -> None:
    try:
        with run.log.open("a") as file:
            file.write(text)
    except OSError as error:
        log.error("%s: its log can't be written: %s", run.id, error)


def reason_of(error: BaseException) -> str:
    """An error as a record tells it."""
    return str(error) if isinstance(error, AlignlabError) else f"{type(error).__name__}: {error}"


def _why_not_written(error: BaseException, run: RunDir) -> str:
    """In words, where an error comes from a disk that is full or closed to us; libraries raise it in many types."""
    there = next(place for place in (run.path, *run.path.absolute().parents) if place.exists())
    full = shutil.disk_usage(there).free < _FULL
    closed = isinstance(error, OSError) and error.errno in _CANT_WRITE
    if not (full or closed):
        return ""
    what = "the disk is full" if full or getattr(error, "errno", None) == errno.ENOSPC else str(error)
    return (
        f"{run.path} can't be written: {what}\n  make room, and the same command resumes; or type: output_root=<folder>"
    )


class _LogFile(logging.FileHandler):
    """The run's log, without what is about other runs only. Where it can't be written, the run itself will meet that
    and say it, once.
    """

    def __init__(self, run: RunDir, others: Sequence[str]) -> None:
        super().__init__(run.log)
        self._id, self._others = run.id, others

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            text = record.getMessage()
        except Exception:  # a library's malformed message: what writes it says so
            return True
        return _is_about(text, self._id, self._others)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


class _DamageRecord(logging.Handler):
    """Writes messages about damaged files into the record of the run during which they were found."""

    def __init__(self, run: RunDir, others: Sequence[str]) -> None:
        super().__init__()
        self._run, self._others = run, others

    def filter(self, record: logging.LogRecord) -> bool:
        return getattr(record, "damage", False) and _is_about(record.getMessage(), self._run.id, self._others)

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # if the record can't be written, the run itself fails with that error
            self._run.update(damaged=[*self._run.record().get("damaged", []), record.getMessage()])


def _is_about(text: str, run: str, others: Sequence[str]) -> bool:
    """Whether a message belongs into the log of a run. It does not if it names only other runs."""
    return run in text or not any(other in text for other in others)


@contextmanager
def logged_to(runs: Sequence[RunDir]) -> Iterator[None]:
    """Messages go to the logs of these runs as well, each to those that it is about."""
    ids = [run.id for run in runs]
    handlers: list[logging.Handler] = []
    for run in runs:
        others = [id for id in ids if id != run.id]
        handlers += [_LogFile(run, others), _DamageRecord(run, others)]
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()
