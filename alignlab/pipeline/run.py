"""Runs a plan: first the runs that it needs, then the run itself, under a lock so that no two processes train it."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from alignlab.config.plan import Plan, judge_from_plan
from alignlab.errors import (
    DamagedError,
    NotVectorizableError,
    ParentError,
    TakenError,
)
from alignlab.integrity import set_aside
from alignlab.judges.base import Judge
from alignlab.pipeline.unfinished import log_unfinished
from alignlab.runs.directory import FINISHED, RunDir
from alignlab.runs.heartbeat import Heartbeat
from alignlab.strategies.place import given_place
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
    """Run a plan and the runs that it needs. Returns the record (run.json) of the run.

    - A finished run is not run again, unless `rerun` is set.
    - An interrupted run resumes from its last training state.
    - If another process is running it, `if_running` decides whether to wait for that process or to skip the run.
      So it does if another machine begins the run at the same moment.

    group:      name of the sweep that the run belongs to.
    overrides:  command-line overrides for the record.
    thresholds: the run is stopped if an evaluation is worse than these.
    Raises the error that ended the run, or ParentError if a run that it needs diverged.
    """
    run = plan.run
    if plan.needs_training():
        for needed in plan.needed:
            _run_needed(plan, needed, run, group)
    try:
        with run.locked(wait=plan.train.if_running == "wait") as locked:
            status = run.record().get("status")
            if not locked:
                log.warning("%s: another process is running it; skipped", run.id)
            elif status in FINISHED and not (plan.train.rerun or _is_replayed(plan, status)):
                log_already_finished(run)
            elif _is_replayed(plan, status) or not _resume_vectorized(plan, run, group, overrides, thresholds):
                _run(plan, run, group, overrides, thresholds)
    except TakenError as error:
        log.info("%s", error)
        return run_plan(plan, group=group, overrides=overrides, thresholds=thresholds)
    return run.record()


def _is_replayed(plan: Plan, status: str | None) -> bool:
    """Whether a run that diverged is to be replayed, to find out why."""
    return plan.train.trainer.anomaly and status == "diverged"


def run_for_policy(plan: Plan, group: str | None = None) -> dict[str, Any]:
    """Run a plan whose policy is needed (`run_plan`). A finished run that kept only its record is trained again."""
    if plan.run.lacks_policy and not plan.train.rerun:
        log.info("%s: kept only its record (trainer.keep=record), so it is trained again for its policy", plan.id)
        plan = replace(plan, train=replace(plan.train, rerun=True))
    return run_plan(plan, group=group)


def _resume_vectorized(
    plan: Plan, run: RunDir, group: str | None, overrides: Sequence[str], thresholds: PruningThresholds | None
) -> bool:
    """Resume a run that was interrupted in a vectorized fit, as a vectorized fit of one point.

    Call it only with the lock of the run. Returns False if the run has no such state or can't resume from it.
    """
    if plan.train.rerun or not run.stacked_checkpoint.exists() or run.checkpoint.exists():
        return False
    from alignlab.vectorized.fit import resume_vectorized  # seconds to import

    reason = "its search may stop it early" if thresholds else ineligible_reason(plan.train)
    try:
        if reason is None:
            resume_vectorized(plan, group, overrides)
            return True
    except (NotVectorizableError, DamagedError) as error:
        reason = str(error)
    log.warning("%s: starts anew, because its vectorized run can't be resumed: %s", run.id, reason)
    return False


def ready_judges(judges: Mapping[str, Judge], plans: Mapping[str, Plan]) -> dict[str, Judge]:
    """The judges, ready to judge. If a judge needs the reward model of a run, that run is trained first if necessary.

    plans: judge's name -> plan of the reward model that it needs.
    Raises ParentError if the run of a reward model is not done afterwards.
    """
    trained = {}
    for name, plan in plans.items():
        log.info("%s: is the reward model of the judge %s", plan.id, name)
        record = run_for_policy(plan)
        if record["status"] != "done":
            raise ParentError(f"judge {name}: {plan.id} is {record['status']}: {record.get('reason')}")
        trained[name] = judge_from_plan(plan, judges[name])
    return {**judges, **trained}


def _run_needed(plan: Plan, needed: Plan, run: RunDir, group: str | None) -> None:
    """Run `needed`, which `plan` starts from. If it fails, record that `plan` failed and why, and raise the error."""
    try:
        record = run_for_policy(needed, group)
        if record["status"] == "diverged":
            raise ParentError(f"{needed.id} diverged: {record.get('reason')}")
    except Exception as error:
        with run.locked(wait=False) as locked:
            if locked:
                run.end("failed", f"a run that it starts from failed: {reason_of(error)}", id=run.id, sweep=group)
        raise


def _run(
    plan: Plan, run: RunDir, group: str | None, overrides: Sequence[str], thresholds: PruningThresholds | None
) -> None:
    """Train a run. If its training state turns out to be damaged during the start, train it from the beginning."""
    import torch

    from alignlab.training.attempt import quiet_libraries

    # Imported here because it takes seconds, and a finished run does not need it.
    from alignlab.training.state import STARTS_ANEW, updates_in

    quiet_libraries()
    done, damage = (0, "") if plan.train.rerun else updates_in(run, run.checkpoint)
    try:
        _attempt(plan, run, group, overrides, thresholds, done, damage)
    except DamagedError as error:
        if not done or error.file != run.checkpoint:
            raise
        _attempt(plan, run, group, overrides, thresholds, 0, set_aside(error, STARTS_ANEW))
    gc.collect()  # frees the memory for the next point of a sweep in the same process
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
    """Train from the state after `done` updates to the end, and record how the attempt ends.

    damage: a message about a damaged training state; empty if there was none.
    """
    from alignlab.training.state import delete_unused_parts
    from alignlab.training.threads import threads_before, threads_for
    from alignlab.training.together import devices_of, fit_together

    before = threads_before(run) if done else None
    devices = devices_of(record) if done and (record := run.record()) else ""
    changes = start_attempt(plan, run, group, overrides, done=done)
    processes = max(given_place().each, plan.train.trainer.devices)
    threads = threads_for([run], plan.train.model.parameters, before=before, processes=processes)
    with logged_to([run]), Heartbeat(run.heartbeat), threads:
        log_damage(damage)
        log.info("%s: %s", run.id, f"resuming at step {done}" if done else "starting")
        log_code_changes(run, changes)
        if not done and run.record().get("attempt") == 1:
            log_unfinished(plan, overrides, group)
        try:
            judges = ready_judges(plan.train.judge, plan.judges) if plan.train.evaluation.every else {}
            outcome = fit_together(
                plan, run, group=group, done=done, thresholds=thresholds, judges=judges, before=devices
            )
            run.end("done", keep=plan.train.trainer.kept, **outcome)
            delete_unused_parts(run)
        except BaseException as error:
            raised = record_failure(run, error, group)
            raise raised from (None if raised is error else error)
        log.info("%s: done, in %s", run.id, run.path)
