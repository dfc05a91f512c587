"""A run from plan to record: what it starts from first, then itself, once, held against every other process."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from alignlab.config.plan import Plan, judge_from_plan
from alignlab.errors import (
    DamagedError,
    NotVectorizableError,
    ParentError,
)
from alignlab.integrity import set_aside
from alignlab.judges.base import Judge
from alignlab.models.efficiency import one_thread_where_small
from alignlab.runs.directory import FINISHED, RunDir
from alignlab.runs.heartbeat import Heartbeat
from alignlab.training.attempt import (
    log_already_finished,
    log_code_changes,
    log_damage,
    logged_to,
    reason_of,
    record_failure,
    start_attempt,
)
from alignlab.training.pruning import PruningThresholds
from alignlab.vectorized.eligibility import ineligible_reason

log = logging.getLogger(__name__)


def run_plan(
    plan: Plan, *, group: str | None = None, overrides: Sequence[str] = (), thresholds: PruningThresholds | None = None
) -> dict[str, Any]:
    """Run a plan and everything it starts from; return the record (run.json) of the run.

    A finished run is not run again (unless `rerun`), an interrupted one resumes from its last checkpoint, and a run
    that another process has in hand is waited for, or left to it (`if_running`).
    """
    run = plan.run
    if plan.needs_training():
        for needed in plan.needed:
            _run_needed(plan, needed, run, group)
    with run.locked(wait=plan.train.if_running == "wait") as mine:
        status = run.record().get("status")
        if not mine:
            log.warning("%s: another process has it in hand; left to it", run.id)
        elif status in FINISHED and not plan.train.rerun:
            log_already_finished(run)
        elif not _resume_vectorized(plan, run, group, overrides, thresholds):
            _run(plan, run, group, overrides, thresholds)
    return run.record()


def _resume_vectorized(
    plan: Plan, run: RunDir, group: str | None, overrides: Sequence[str], thresholds: PruningThresholds | None
) -> bool:
    """Whether a run that we hold was stopped as part of a stack, and was trained from there as a stack of one."""
    if plan.train.rerun or not run.stacked_checkpoint.exists() or run.checkpoint.exists():
        return False
    from alignlab.vectorized.fit import resume_vectorized  # seconds to import

    reason = "its search may end it early" if thresholds else ineligible_reason(plan.train)
    try:
        if reason is None:
            resume_vectorized(plan, group, overrides)
            return True
    except (NotVectorizableError, DamagedError) as error:
        reason = str(error)
    log.warning("%s: was begun in a stack, and starts anew: %s", run.id, reason)
    return False


def ready_judges(judges: Mapping[str, Judge], plans: Mapping[str, Plan]) -> dict[str, Judge]:
    """Judges that can judge: the runs that some of them are made by are trained, once, or found."""
    made = {}
    for name, plan in plans.items():
        log.info("%s: makes the judge %s", plan.id, name)
        record = run_plan(plan)
        if record["status"] != "done":
            raise ParentError(f"judge {name}: {plan.id} is {record['status']}: {record.get('reason')}")
        made[name] = judge_from_plan(plan, judges[name])
    return {**judges, **made}


def _run_needed(plan: Plan, needed: Plan, run: RunDir, group: str | None) -> None:
    """Run what `plan` starts from; where that can't be had, `plan` failed, and its record says whose fault it was."""
    try:
        found = run_plan(needed, group=group)
        if found["status"] == "diverged":
            raise ParentError(f"{needed.id} diverged: {found.get('reason')}")
    except Exception as error:
        with run.locked(wait=False) as mine:
            if mine:
                run.end("failed", f"what it starts from can't be had: {reason_of(error)}", id=run.id, sweep=group)
        raise


def _run(
    plan: Plan, run: RunDir, group: str | None, overrides: Sequence[str], thresholds: PruningThresholds | None
) -> None:
    """Train, with the run's directory telling what goes on from beginning to end."""
    import torch

    from alignlab.training.attempt import quiet_libraries

    # Imported here: it takes seconds, and a run that is done does not need it.
    from alignlab.training.state import STARTS_ANEW, updates_in

    quiet_libraries()
    done, said = (0, "") if plan.train.rerun else updates_in(run, run.checkpoint)
    try:
        _attempt(plan, run, group, overrides, thresholds, done, said)
    except DamagedError as error:
        if not done or error.file != run.checkpoint:
            raise
        _attempt(plan, run, group, overrides, thresholds, 0, set_aside(error, STARTS_ANEW))
    gc.collect()  # a sweep in one process starts its next point with this one's memory free
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _attempt(
    plan: Plan,
    run: RunDir,
    group: str | None,
    overrides: Sequence[str],
    thresholds: PruningThresholds | None,
    done: int,
    damage: str,
) -> None:
    """Train from the state after `done` updates to the end.

    damage: what was wrong with an earlier state; empty if nothing was.
    """
    from alignlab.training.fit import fit

    changes = start_attempt(plan, run, group, overrides, done=done)
    small = one_thread_where_small(plan.train.model.parameters)
    with logged_to([run]), Heartbeat(run.heartbeat), small:
        log_damage(damage)
        log.info("%s: %s", run.id, f"resuming at step {done}" if done else "starting")
        log_code_changes(run, changes)
        try:
            judges = ready_judges(plan.train.judge, plan.judges) if plan.train.evaluation.every else {}
            run.end("done", **fit(plan, run, group=group, done=done, thresholds=thresholds, judges=judges))
        except BaseException as error:
            told = record_failure(run, error, group)
            raise told from (None if told is error else error)
        log.info("%s: done, in %s", run.id, run.path)
