"""Tasks as jobs of a SLURM array, by submitit; what a time limit or a preemption cuts off is queued again and resumes.

What the points start from are jobs too: the machine that submits is seldom one to train on. Hydra's own submitit
launcher would train it here, and end with the first lost job while the others still run.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alignlab.checks import at_least, installed, one_of
from alignlab.errors import Problem
from alignlab.progress import log_to_terminal
from alignlab.spelling import counted
from alignlab.sweep.launchers.interrupts import InterruptCounter
from alignlab.sweep.launchers.process import library_settings
from alignlab.sweep.tasks import OnFinished, RunTask, Task, retries_of, unfinished

_LOOK = 1.0  # seconds between two looks at the jobs; submitit asks SLURM less often
_CLUSTERS = ("slurm", "local")


def problems_of(limits: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with the launcher's options, or missing on this machine."""
    yield from installed("launcher", "slurm", "submitit", extra="slurm")
    yield from one_of("launcher.cluster", limits["cluster"], _CLUSTERS)
    if limits["cluster"] == "slurm" and (shutil.which("sbatch") is None or shutil.which("srun") is None):
        text = "there is no SLURM here: sbatch and srun are not on the PATH; a dry run needs none"
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
    """Runs tasks as jobs. What comes of them stands in the ledger, on a file system that all machines see."""

    def __init__(self, *, cluster: str, retries: int, requeues: int, **options: Any) -> None:
        self._cluster = cluster
        self._retries = retries
        self._requeues = requeues
        self._options = options

    def run(self, tasks: Sequence[Task], on_finished: OnFinished) -> None:
        """Run tasks that do not need each other. After a signal: KeyboardInterrupt, once their jobs have ended."""
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
                        self._stop(job, at_once=stops.asked > 1)
                for job in [job for job in running if job.done()]:
                    task, attempt = running.pop(job)
                    if stops.asked and isinstance(task, RunTask) and task.run.record().get("status") == "queued":
                        task.run.queue()  # by this process again, with whose end it is not any more
                    again = retries_of(
                        task,
                        None if stops.asked else _lost(job),
                        left=0 if stops.asked else self._retries + 1 - attempt,
                        out_of_memory=job.state.startswith("OUT_OF_ME"),
                    )
                    if again:
                        running |= dict.fromkeys(self._submit(executor, again), (again[0], attempt + 1))
                    else:
                        on_finished(task.name)
        if stops.asked:
            raise KeyboardInterrupt

    def _executor(self, logs: Path) -> Any:
        """submitit's, with our options under the names that it has for them."""
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
        directory, threads = os.getcwd(), self._options["cpus"]
        jobs: list[Any] = executor.submit_array([_Job(pickle.dumps(task), directory, threads) for task in tasks])
        return jobs

    def _stop(self, job: Any, *, at_once: bool) -> None:
        """First like Ctrl-C, so that what runs saves its state; what still waits is taken out of the queue."""
        if self._cluster == "local" or at_once:
            job.cancel(check=False)
        else:
            subprocess.run(["scancel", "--state=PENDING", job.job_id], check=False)
            subprocess.run(["scancel", "--signal=INT", job.job_id], check=False)


@dataclass
class _Job:
    """A pickled task as submitit calls it, on another machine."""

    task: bytes
    directory: str
    threads: int

    def __call__(self) -> None:
        os.chdir(self.directory)
        os.environ.update(library_settings(self.threads))
        task = pickle.loads(self.task)  # imports torch, which reads what was just set
        if int(os.environ.get("SLURM_RESTART_COUNT", "0")):  # queued again by SLURM itself
            task = _going_on(task)

        log_to_terminal()
        task()

    def checkpoint(self) -> Any:
        """What is queued again after a time limit or a preemption: the same, its state being in its run directory."""
        import submitit

        task = _going_on(pickle.loads(self.task))
        return submitit.helpers.DelayedSubmission(replace(self, task=pickle.dumps(task)))


def _going_on(task: Task) -> Task:
    """A task that was begun before, from where it was."""
    return task.resumed() if isinstance(task, RunTask) else task


def _sbatch_option(text: str) -> tuple[str, str | bool]:
    """(name, value) of `name=value`, or of `name` alone."""
    name, is_set, value = text.lstrip("-").partition("=")
    return name, value if is_set else True


def _lost(job: Any) -> str | None:
    """How a job ended that left no result and that nobody cancelled."""
    if job.paths.result_pickle.exists() or job.state.startswith("CANCELLED"):
        return None
    return f"no result (job {job.job_id}: {job.state.lower()})"
