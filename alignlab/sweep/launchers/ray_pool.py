"""Tasks on a Ray, one machine or a cluster; a lost worker or node costs only the tasks that it had.

Ray's own retries are off: it would start a lost task again in the same directory without a word in its record.
"""

from __future__ import annotations

import os
import pickle
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

from alignlab.errors import AlignlabError
from alignlab.progress import log_to_terminal
from alignlab.sweep.launchers.interrupts import InterruptCounter
from alignlab.sweep.launchers.process import library_settings, print_to
from alignlab.sweep.tasks import OnFinished, Task, retries_of, unfinished

_LOOK = 0.5  # seconds between two looks at signals
_KNOCK = 10.0  # seconds that a Ray may take to answer


class RayPool:
    """Runs tasks in Ray's workers. What comes of them stands in the ledger, on a file system that all machines see."""

    def __init__(self, *, address: str, at_once: int, cpus: float, gpus: float, retries: int) -> None:
        """`address` of a running Ray, or "" for one of our own; `cpus` and `gpus` of a task, in fractions too."""
        self._address = address
        self._at_once = at_once
        self._resources = {"num_cpus": cpus, "num_gpus": gpus}
        self._retries = retries

    def run(self, tasks: Sequence[Task], on_finished: OnFinished) -> None:
        """Run tasks that do not need each other. After a signal: KeyboardInterrupt, once all have ended."""
        waiting = deque((task, 1) for task in unfinished(tasks, on_finished))
        if not waiting:
            return
        ray = connect(self._address)
        self._refuse_too_much(ray)
        work = ray.remote(max_retries=0, **self._resources)(work_on)
        running: dict[Any, tuple[Task, int]] = {}
        most = self._at_once or len(tasks)
        with InterruptCounter() as stops:
            while running or (waiting and not stops.asked):
                while waiting and len(running) < most and not stops.asked:
                    task, attempt = waiting.popleft()
                    running[work.remote(pickle.dumps(task), os.getcwd(), self._threads())] = task, attempt
                ended, _ = ray.wait(list(running), timeout=_LOOK)
                if stops.news():
                    for reference in running:
                        ray.cancel(reference, force=stops.asked > 1)  # the first is a KeyboardInterrupt to the worker
                for reference in ended:
                    task, attempt = running.pop(reference)
                    how, out_of_memory = _end_of(ray, reference)
                    again = retries_of(
                        task,
                        None if stops.asked else how,
                        left=0 if stops.asked else self._retries + 1 - attempt,
                        out_of_memory=out_of_memory,
                    )
                    waiting.extendleft((run, attempt + 1) for run in again)
                    if not again:
                        on_finished(task.name)
        if stops.asked:
            raise KeyboardInterrupt

    def _refuse_too_much(self, ray: Any) -> None:
        """Raise AlignlabError where a Ray of our own has not what one task asks for; a cluster may still grow."""
        there = ray.cluster_resources()
        for option, name, asked in (
            ("cpus", "CPU", self._resources["num_cpus"]),
            ("gpus", "GPU", self._resources["num_gpus"]),
        ):
            has = there.get(name, 0.0)
            if asked > has and not self._address:
                raise AlignlabError(
                    f"launcher.{option}={asked:g} for each point, and this machine has {has:g}: none could ever start\n"
                    f"  type: launcher.{option}={has:g}"
                )

    def width(self) -> int:
        """Tasks that the cluster has room for at a time, as it is now."""
        there = connect(self._address).cluster_resources()
        names = {"num_cpus": "CPU", "num_gpus": "GPU"}
        room = min(int(there.get(names[kind], 0) / need) for kind, need in self._resources.items() if need)
        return max(1, min(room, self._at_once or room))

    def _threads(self) -> int:
        return max(1, int(self._resources["num_cpus"]))


def connect(address: str) -> Any:
    """The ray module, connected, until this process ends. Raises AlignlabError where there is no Ray at `address`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not address:
        # What Ray calls its desktop mode binds every port to loopback; it is read when ray is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    if not ray.is_initialized():
        _knock(address)
        own: dict[str, Any] = {} if address else {"include_dashboard": False, "num_cpus": len(os.sched_getaffinity(0))}
        try:
            ray.init(address=address or "local", log_to_driver=False, **own)
        except Exception as error:  # among others the bare class, where it did not come up in time
            where = f"no Ray answers at {address}" if address else "no Ray can be started here"
            raise AlignlabError(f"{where}: {str(error).splitlines()[0]}") from error
    return ray


def _knock(address: str) -> None:
    """Raise AlignlabError where nobody listens at host:port; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "://" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK).close()
    except OSError as error:
        raise AlignlabError(f"no Ray answers at {address}: {error}\n  see there: ray status") from error


def work_on(pickled: bytes, directory: str, threads: int) -> None:
    """One task, in a worker."""
    os.chdir(directory)
    os.environ.update(library_settings(threads))
    task = pickle.loads(pickled)  # imports torch, which reads what was just set
    print_to(task.logs / f"{task.name}.log")
    log_to_terminal()
    task()


def _end_of(ray: Any, reference: Any) -> tuple[str | None, bool]:
    """(what ended a task that did not end by itself, whether that was a lack of memory)."""
    try:
        ray.get(reference)
    except ray.exceptions.TaskCancelledError:
        return None, False
    except ray.exceptions.OutOfMemoryError:
        return "its worker killed by Ray", True
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__} ({' '.join(str(error).split())[:200]})", False
    return None, False
