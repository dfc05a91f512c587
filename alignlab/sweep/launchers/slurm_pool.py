"""Runs tasks as jobs of a SLURM array (submitit). After a time limit or a preemption a job is queued again and resumes.

Parents of points are jobs too, because the machine that submits is seldom made for training. Hydra's own submitit
launcher would train them here, and would end at the first lost job while the other jobs still run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alignlab.checks import at_least, installed, one_of
from alignlab.errors import Problem
from alignlab.plugins import packed, unpacked
from alignlab.progress import log_to_terminal
from alignlab.spelling import counted
from alignlab.sweep.launchers.interrupts import InterruptCounter
from alignlab.sweep.launchers.process import library_settings
from alignlab.sweep.tasks import OnFinished, RunTask, Task, processes_of, retries_of, unfinished

_LOOK = 1.0  # seconds between two checks of the jobs; submitit asks SLURM less often
_CLUSTERS = ("slurm", "local")


def problems_of(limits: Mapping[str, Any]) -> Iterator[Problem]:
    """Problems of the launcher's options, and of programs and packages that this machine lacks."""
    yield from installed("launcher", "slurm", "submitit", extra="slurm")
    yield from one_of("launcher.cluster", limits["cluster"], _CLUSTERS)
    if limits["cluster"] == "slurm" and (shutil.which("sbatch") is None or shutil.which("srun") is None):
        text = "there is no SLURM here: sbatch and srun are not on the PATH; jobs as processes do not need them"
        yield Problem("launcher", "slurm", text, "launcher.cluster=local")
    yield from at_least("launcher.at_once", limits["at_once"], 1, example=64)
    yield from at_least("launcher.gpus", limits["gpus"], 0, example=1)
    yield from at_least("launcher.cpus", limits["cpus"], 1, example=4)
    yield from at_least("launcher.retries", limits["retries"], 0, example=1)
    yield from at_least("launcher.requeues", limits["requeues"], 0, example=100)
    yield from at_least("launcher.minutes", limits["minutes"], 1, example=720)
    if limits["minutes"] >= 1 and not 60 * limits["minutes"] > limits["notice_seconds"] > 0:
        text = f"must be more than 0 and less than the limit of {counted(limits['minutes'], 'minute')}"
        yield Problem(
            "launcher.notice_seconds",
            limits["notice_seconds"],
            text,
            f"launcher.notice_seconds={min(120, 30 * limits['minutes'])}",
        )


class SlurmPool:
    """Runs tasks as jobs. Results are in the run directories, on a file system that all machines share."""

    def __init__(self, *, cluster: str, retries: int, requeues: int, **options: Any) -> None:
        self._cluster = cluster
        self._retries = retries
        self._requeues = requeues
        self._options = options

    def run(self, tasks: Sequence[Task], on_finished: OnFinished) -> None:
        """Run tasks that do not depend on each other.

        Raises KeyboardInterrupt after a signal, once their jobs have ended.
        """
        left = unfinished(tasks, on_finished)
        if not left:
            return
        for task in left:
            if isinstance(task, RunTask):
                task.run.leave_queued()
        executor = self._executor(left[0].logs)
        running = {job: (task, 1) for job, task in zip(self._submit(executor, left), left, strict=True)}
        with InterruptCounter() as stops:
            while running:
                time.sleep(_LOOK)
                if stops.news():
                    for job in running:
                        self._stop(job, at_once=stops.signals > 1)
                for job in [job for job in running if job.done()]:
                    task, attempt = running.pop(job)
                    if stops.signals and isinstance(task, RunTask) and task.run.record().get("status") == "queued":
                        task.run.queue()  # marks it as queued by this process, which ends, so the run is interrupted
                    again = retries_of(
                        task,
                        None if stops.signals else _lost(job),
                        left=0 if stops.signals else self._retries + 1 - attempt,
                        out_of_memory=job.state.startswith("OUT_OF_ME"),
                    )
                    if again:
                        running |= dict.fromkeys(self._submit(executor, again), (again[0], attempt + 1))
                    else:
                        on_finished(task.name)
        if stops.signals:
            raise KeyboardInterrupt

    def _executor(self, logs: Path) -> Any:
        """The submitit executor, which has the launcher's options under its own names."""
        import submitit

        o = self._options
        executor = submitit.AutoExecutor(logs / "%j", cluster=self._cluster, slurm_max_num_timeout=self._requeues)
        executor.update_parameters(
            name="alignlab",
            timeout_min=o["minutes"],
            cpus_per_task=o["cpus"],
            gpus_per_node=o["gpus"],
            mem_gb=o["memory_gb"],
            slurm_array_parallelism=o["at_once"],
            slurm_signal_delay_s=o["notice_seconds"],
            slurm_setup=list(o["setup"]) or None,
            slurm_additional_parameters={"requeue": True, **dict(map(_sbatch_option, o["sbatch"]))},
            **{f"slurm_{name}": o[name] for name in ("partition", "account", "qos", "constraint")},
        )
        return executor

    def _submit(self, executor: Any, tasks: Sequence[Task]) -> list[Any]:
        directory, cpus = os.getcwd(), self._options["cpus"]
        jobs: list[Any] = executor.submit_array(
            [_Job(packed(task), directory, max(1, cpus // processes_of(task))) for task in tasks]
        )
        return jobs

    def _stop(self, job: Any, *, at_once: bool) -> None:
        """Stop a job: a waiting job leaves the queue, a running one gets SIGINT and saves its state.

        With `at_once`, and on the local cluster, the job is cancelled instead.
        """
        if self._cluster == "local" or at_once:
            job.cancel(check=False)
        else:
            subprocess.run(["scancel", "--state=PENDING", job.job_id], check=False)
            subprocess.run(["scancel", "--signal=INT", job.job_id], check=False)


@dataclass
class _Job:
    """A pickled task, which submitit calls on another machine.

    threads: of each process of the task.
    """

    task: bytes
    directory: str
    threads: int

    def __call__(self) -> None:
        os.chdir(self.directory)
        os.environ.update(library_settings(self.threads))
        task = unpacked(self.task)  # imports torch, which reads the variables that were just set
        if int(os.environ.get("SLURM_RESTART_COUNT", "0")):  # SLURM itself queued the job again
            task = _resumed(task)
        log_to_terminal()
        task()

    def checkpoint(self) -> Any:
        """The job that submitit queues after a time limit or a preemption. It resumes from the run directory."""
        import submitit

        task = _resumed(unpacked(self.task))
        return submitit.helpers.DelayedSubmission(replace(self, task=packed(task)))


def _resumed(task: Task) -> Task:
    """The task, which continues a run that it has begun before."""
    return task.resumed() if isinstance(task, RunTask) else task


def _sbatch_option(text: str) -> tuple[str, str | bool]:
    """(name, value) of `name=value`, or of `name` alone."""
    name, is_set, value = text.lstrip("-").partition("=")
    return name, value if is_set else True


def _lost(job: Any) -> str | None:
    """How a job was lost, in words; None if it left a result or was cancelled."""
    if job.paths.result_pickle.exists() or job.state.startswith("CANCELLED"):
        return None
    return f"no result (job {job.job_id}: {job.state.lower()})"
