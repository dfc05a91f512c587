"""Tasks without launchers: retries, and which points are joined into one model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import hydra
import pytest

from alignlab.config.plan import plan
from alignlab.errors import AlignlabError
from alignlab.plugins import packed, unpacked
from alignlab.sweep.tasks import RunTask, VectorizedTask, retries_of, unfinished, with_vectorized
from alignlab.training.pruning import PruningThresholds
from alignlab.vectorized.eligibility import overhead_bound
from tests.lab_runs import LAB


@pytest.fixture
def task(tmp_path: Path, hydra_conf: None) -> RunTask:
    """A run with `rerun`, whose process began it and died without an entry in its record."""
    config = hydra.compose("train", [*LAB, "rerun=true", f"output_root={tmp_path}"])
    begun = RunTask(plan(config), "s")
    begun.run.start("", fresh=True)
    return begun


@pytest.fixture
def again(task: RunTask) -> RunTask:
    """The same run without `rerun`."""
    return replace(task, plan=replace(task.plan, train=replace(task.plan.train, rerun=False)))


def test_a_retry_goes_on_where_a_rerun_was_cut_off(task: RunTask) -> None:
    (again,) = retries_of(task, "signal SIGKILL", left=1)
    assert (again.name, again.plan.train.rerun, task.plan.train.rerun) == (task.name, False, True)
    assert task.run.state()["reason"] == "its process ended with signal SIGKILL"
    task.run.start("", fresh=True)
    (smaller,) = retries_of(task, "signal SIGKILL", left=1, out_of_memory=True)
    assert smaller.plan.train.trainer.micro_batch_size == task.plan.train.trainer.micro_batch_size // 2
    assert not smaller.plan.train.rerun
    task.run.start("", fresh=True)
    assert retries_of(task, "signal SIGKILL", left=0) == []


def test_a_rerun_that_is_lost_before_it_begins_is_not_its_old_result(task: RunTask) -> None:
    for status in ("done", "failed"):
        task.run.end(status, "of last week")
        anew = RunTask(task.plan, "s")
        (again,) = retries_of(anew, "no result", left=1)
        assert again.plan.train.rerun, "what is there is not to be gone on from"
        assert (task.run.status(), task.run.state()["reason"]) == ("failed", "its process ended with no result")
        assert retries_of(again, "no result", left=0) == []
    task.run.end("done")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("alignlab.sweep.tasks.run_plan", raising(AlignlabError("nothing to start from")))
        RunTask(task.plan, "s")()
    assert (task.run.status(), task.run.state()["reason"]) == ("failed", "nothing to start from")


def test_what_failed_last_week_is_tried_again_when_its_worker_is_lost(again: RunTask) -> None:
    again.run.end("failed", "of last week")
    asked = replace(again)
    assert asked.state() == {}
    assert retries_of(asked, "signal SIGKILL", left=1)
    assert again.run.state()["reason"] == "its process ended with signal SIGKILL"
    again.run.end("done")
    assert replace(again).state()["status"] == "done", "a result stands"


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*given: object, **named: object) -> None:
        raise error

    return fail


def test_a_worker_that_dies_while_it_waits_leaves_the_run_to_who_has_it(task: RunTask) -> None:
    with task.run.locked():
        assert retries_of(task, "signal SIGKILL", left=1)
        assert task.run.status() == "running"
    waiting = replace(task)  # created while a machine whose locks can't be seen worked on the run
    assert retries_of(waiting, "signal SIGKILL", left=1)
    assert task.run.record()["status"] == "running"


def test_what_is_finished_starts_no_process(task: RunTask, again: RunTask) -> None:
    task.run.end("done")
    told: list[str] = []
    assert unfinished([task, again], told.append) == [task], "this one is to be made anew"
    assert told == [task.name]
    evaluated = replace(again.plan.train, evaluation=replace(again.plan.train.evaluation, at_end=True))
    wanting = replace(again, plan=replace(again.plan, train=evaluated))
    assert unfinished([wanting], told.append) == [wanting], "its evaluation may be another one by now"


@pytest.fixture
def five(tmp_path: Path, hydra_conf: None) -> list[RunTask]:
    """Points that differ only in their strength."""
    configs = [hydra.compose("train", [*LAB, f"strength=0.{i}", f"output_root={tmp_path}"]) for i in range(1, 6)]
    return [RunTask(plan(config), "s") for config in configs]


def test_points_together(five: list[RunTask]) -> None:
    """Groups are divided among processes. Finished points count but are not run again. Trials stay single."""
    five[1].run.end("done")
    first, second = with_vectorized(five, overhead_bound, processes=2)
    assert isinstance(first, VectorizedTask)
    assert isinstance(second, VectorizedTask)
    assert (first.points, second.points) == (tuple(five[:2]), tuple(five[2:]))
    assert (second.name, second.names) == (five[2].name, tuple(point.name for point in five[2:]))
    told: list[str] = []
    assert unfinished([first, second], told.append) == [VectorizedTask((five[0],)), second]
    assert told == [five[1].name]
    five[0].run.end("done")
    assert unfinished([first], told.append) == []
    assert with_vectorized(five, overhead_bound, processes=5) == five
    assert with_vectorized(five, lambda plans: False) == five
    barred = [
        replace(point, thresholds=PruningThresholds("eval/loss", minimize=True, medians={})) for point in five[:2]
    ]
    assert with_vectorized([*barred, *five[2:]], overhead_bound)[1:] == barred


def test_of_a_stack_whose_process_was_lost_each_point_is_tried_again(five: list[RunTask]) -> None:
    stack = VectorizedTask(tuple(five[:3]))
    done, begun, _ = (point.run for point in stack.points)
    done.end("done")
    begun.start("", fresh=True)
    again = retries_of(stack, "signal SIGKILL", left=1)
    assert [run.name for run in again] == [five[1].name, five[2].name]
    assert begun.state()["reason"] == "its process ended with signal SIGKILL"
    assert retries_of(stack, None, left=1) == [], "by itself: the points said how they ended"
    train = five[0].plan.train
    plan = replace(five[0].plan, train=replace(train, evaluation=replace(train.evaluation, at_end=True)))
    evaluated = replace(five[0], plan=plan)
    assert retries_of(evaluated, "signal SIGKILL", left=1) == [evaluated], "done, and yet to be evaluated"
    done.update(evaluated="somewhere")
    assert retries_of(evaluated, "signal SIGKILL", left=1) == []


def test_what_a_stack_leaves_is_run_point_by_point(five: list[RunTask], monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr("alignlab.sweep.tasks.run_plan", lambda plan, **how: ran.append(plan.id))
    monkeypatch.setattr("alignlab.sweep.tasks.run_for_policy", lambda plan, group: ran.append(plan.id))
    run_vectorized = "alignlab.vectorized.fit.run_vectorized"
    monkeypatch.setattr(run_vectorized, lambda plans, **how: {plans[1].id: None})
    assert five[0].plan.parent is not None
    parent = five[0].plan.parent.id  # the parent of all five runs first
    VectorizedTask(tuple(five[:3]))()
    assert ran == [parent, five[0].name, five[2].name]
    five[3].run.end("done")
    ran.clear()
    VectorizedTask(tuple(five[2:]))()
    assert ran == [parent, five[2].name], "what is finished has no part in it"
    ran.clear()
    monkeypatch.setattr(run_vectorized, raising(MemoryError("too little")))
    VectorizedTask(tuple(five[:3]))()
    assert ran == [parent, *(point.name for point in five[:3])]
    monkeypatch.setattr(run_vectorized, raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        VectorizedTask(tuple(five))()


def test_what_goes_on_from_a_stack_is_not_compiled(task: RunTask, again: RunTask) -> None:
    assert again.compiled().plan.train.trainer.compile == "always"
    again.run.stacked_checkpoint.write_text("")
    assert again.compiled() is again
    assert task.compiled().plan.train.trainer.compile == "always", "it begins anew"
    again.run.checkpoint.write_text("")
    assert again.compiled().plan.train.trainer.compile == "always"


def test_a_job_that_is_queued_again_goes_on(task: RunTask) -> None:
    pytest.importorskip("submitit", reason='pip install "alignlab[slurm]"')
    from alignlab.sweep.launchers.slurm_pool import _Job

    queued = _Job(packed(task), "/somewhere", 2).checkpoint().function
    going_on = unpacked(queued.task)
    assert (going_on.name, going_on.plan.train.rerun) == (task.name, False)
    assert (queued.directory, queued.threads) == ("/somewhere", 2)
