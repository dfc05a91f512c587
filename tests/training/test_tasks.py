"""Tasks apart from what runs them: what a retry is."""

from __future__ import annotations

import pickle
from pathlib import Path

import hydra
import pytest

from alignlab.config.plan import plan
from alignlab.training.tasks import RunTask, tried_again
from tests.training.test_training import LAB


@pytest.fixture
def task(tmp_path: Path, hydra_conf: None) -> RunTask:
    """A run that is to be done anew, and that a process has begun and left without a word."""
    config = hydra.compose("train", [*LAB, "rerun=true", f"output_root={tmp_path}"])
    begun = RunTask(plan(config), "s")
    begun.run.start("", fresh=True)
    return begun


def test_a_retry_goes_on_where_a_rerun_was_cut_off(task: RunTask) -> None:
    again = tried_again(task, "signal SIGKILL", left=1)
    assert isinstance(again, RunTask)
    assert (again.name, again.plan.train.rerun, task.plan.train.rerun) == (task.name, False, True)
    assert task.run.state()["reason"] == "its process ended with signal SIGKILL"
    task.run.start("", fresh=True)
    smaller = tried_again(task, "signal SIGKILL", left=1, out_of_memory=True)
    assert isinstance(smaller, RunTask)
    assert smaller.plan.train.trainer.micro_batch_size == task.plan.train.trainer.micro_batch_size // 2
    assert not smaller.plan.train.rerun
    task.run.start("", fresh=True)
    assert tried_again(task, "signal SIGKILL", left=0) is None


def test_a_job_that_is_queued_again_goes_on(task: RunTask) -> None:
    pytest.importorskip("submitit", reason='pip install "alignlab[slurm]"')
    from alignlab.training.slurm_pool import _Job

    queued = _Job(pickle.dumps(task), "/somewhere", 2).checkpoint().function
    going_on = pickle.loads(queued.task)
    assert (going_on.name, going_on.plan.train.rerun) == (task.name, False)
    assert (queued.directory, queued.threads) == ("/somewhere", 2)
