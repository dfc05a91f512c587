"""Runs tasks on Ray, on one machine or a cluster. If a worker or node is lost, only its own tasks are affected.

Ray's own retries are off, because they would start a lost task again without an entry in the record of its run.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

from alignlab.errors import AlignlabError
from alignlab.plugins import packed, unpacked
from alignlab.progress import log_to_terminal
from alignlab.sweep.launchers.interrupts import InterruptCounter
from alignlab.sweep.launchers.process import library_settings, print_to
from alignlab.sweep.tasks import OnFinished, Task, processes_of, retries_of, unfinished

_LOOK = 0.5  # seconds between two checks for signals
_KNOCK = 10.0  # seconds that Ray may take to accept a connection


class RayPool:
    """Runs tasks in Ray's workers. Results are in the run directories, on a file system that all machines share."""

    def __init__(self, *, address: str, at_once: int, cpus: float, gpus: float, retries: int) -> None:
        """See RayLauncherConf."""
        self._address = address
        self._at_once = at_once
        self._resources = {"num_cpus": cpus, "num_gpus": gpus}
        self._retries = retries

    def run(self, tasks: Sequence[Task], on_finished: OnFinished) -> None:
        """Run tasks that do not depend on each other.

        Raises KeyboardInterrupt after a signal, once all tasks have ended, and AlignlabError if this machine lacks the
        resources of one task.
        """
        waiting = deque((task, 1) for task in unfinished(tasks, on_finished))
        if not waiting:
            return
        ray = connect(self._address)
        self._refuse_too_much(ray)
        work = ray.remote(max_retries=0, **self._resources)(work_on)
        running: dict[Any, tuple[Task, int]] = {}
        most = self._at_once or len(tasks)
        with InterruptCounter() as stops:
            while running or (waiting and not stops.signals):
                while waiting and len(running) < most and not stops.signals:
                    task, attempt = waiting.popleft()
                    running[work.remote(packed(task), os.getcwd(), self._threads(task))] = task, attempt
                ended, _ = ray.wait(list(running), timeout=_LOOK)
                if stops.news():
                    for reference in running:
                        ray.cancel(
                            reference, force=stops.signals > 1
                        )  # without force, the worker gets KeyboardInterrupt
                for reference in ended:
                    task, attempt = running.pop(reference)
                    how, out_of_memory = _end_of(ray, reference)
                    again = retries_of(
                        task,
                        None if stops.signals else how,
                        left=0 if stops.signals else self._retries + 1 - attempt,
                        out_of_memory=out_of_memory,
                    )
                    waiting.extendleft((run, attempt + 1) for run in again)
                    if not again:
                        on_finished(task.name)
        if stops.signals:
            raise KeyboardInterrupt

    def _refuse_too_much(self, ray: Any) -> None:
        """Raise AlignlabError if a Ray on this machine lacks the resources of one task. A cluster may still grow."""
        resources = ray.cluster_resources()
        for option, name, needed in (
            ("cpus", "CPU", self._resources["num_cpus"]),
            ("gpus", "GPU", self._resources["num_gpus"]),
        ):
            has = resources.get(name, 0.0)
            if needed > has and not self._address:
                raise AlignlabError(
                    f"launcher.{option}={needed:g} for each point, but this machine has {has:g}: no point could start\n"
                    f"  type: launcher.{option}={has:g}"
                )

    def width(self) -> int:
        """Number of tasks that the cluster, as it is now, can run at a time. Raises AlignlabError without a cluster."""
        resources = connect(self._address).cluster_resources()
        names = {"num_cpus": "CPU", "num_gpus": "GPU"}
        room = min(int(resources.get(names[kind], 0) / need) for kind, need in self._resources.items() if need)
        return max(1, min(room, self._at_once or room))

    def _threads(self, task: Task) -> int:
        """Threads of each process of a task."""
        return max(1, int(self._resources["num_cpus"]) // processes_of(task))


def connect(address: str) -> Any:
    """The ray module, connected until this process ends. Raises AlignlabError if there is no Ray at `address`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not address:
        # This binds every port of Ray to loopback. Ray reads the variable when it is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    if not ray.is_initialized():
        _refuse_silent_address(address)
        own: dict[str, Any] = {} if address else {"include_dashboard": False, "num_cpus": len(os.sched_getaffinity(0))}
        try:
            ray.init(address=address or "local", log_to_driver=False, **own)
        except Exception as error:  # Ray raises many types; a bare Exception if it did not start in time
            raise AlignlabError(_not_connected(address, error)) from error
    return ray


def _not_connected(address: str, error: Exception) -> str:
    """Why there is no Ray, and what to type."""
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    if address:
        return f"no Ray answers at {address}: {why}"
    return f"no Ray can be started here: {why}\n  type: launcher=local   (processes on this machine, without Ray)"


def _refuse_silent_address(address: str) -> None:
    """Raise AlignlabError if nothing listens at host:port. Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "://" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK).close()
    except OSError as error:
        raise AlignlabError(f"no Ray answers at {address}: {error}\n  type on that machine: ray status") from error


def work_on(pickled: bytes, directory: str, threads: int) -> None:
    """Run one pickled task in a Ray worker, with a working directory and a number of threads."""
    os.chdir(directory)
    os.environ.update(library_settings(threads))
    task = unpacked(pickled)  # imports torch, which reads the variables that were just set
    print_to(task.logs / f"{task.name}.log")
    log_to_terminal()
    task()


def _end_of(ray: Any, reference: Any) -> tuple[str | None, bool]:
    """(how a task was ended from outside, or None; whether it was ended for lack of memory)."""
    try:
        ray.get(reference)
    except ray.exceptions.TaskCancelledError:
        return None, False
    except ray.exceptions.OutOfMemoryError:
        return "its worker killed by Ray", True
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__} ({' '.join(str(error).split())[:200]})", False
    return None, False
