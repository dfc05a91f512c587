"""Runs tasks in several worker processes of this machine. If a worker dies, only its own task is affected.

A worker runs one task after another, so it imports libraries, compiles layers and reads files only once.
"""

from __future__ import annotations

import logging
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType

import psutil

from alignlab.plugins import packed
from alignlab.runs.cores import claimed, cores
from alignlab.spelling import counted
from alignlab.sweep.launchers.host import Slot, memory, oom_kills, slots
from alignlab.sweep.launchers.interrupts import InterruptCounter
from alignlab.sweep.tasks import OnFinished, RunTask, Task, compiled_where_it_pays, retries_of, unfinished

log = logging.getLogger(__name__)

_LOOK = 0.2  # seconds between two checks of the workers
_GRACE = 10.0  # seconds that a worker may take to end before it is killed
_GB = 2**30
_UNKNOWN = 1.0 * _GB  # least memory that a task is assumed to need (bytes)
_SPARE = 0.05  # share of the total memory that is kept free


@dataclass
class _Worker:
    """A process and its current task. `alive` and `ended` are this process's ends of the pipes to it."""

    slot: Slot
    process: subprocess.Popen[bytes]
    alive: int
    ended: int
    task: Task | None = None
    attempt: int = 1
    oom_kills: int = 0
    peak: int = field(default=0)

    def give(self, task: Task, attempt: int) -> None:
        """Send it a task."""
        output = (task.logs / f"{task.name}.log").absolute()
        self.task, self.attempt, self.oom_kills = task, attempt, oom_kills()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # the worker died, which the next check of it finds
            self.process.stdin.write(pickle.dumps((packed(task), output)))
            self.process.stdin.flush()

    def has_ended(self) -> bool:
        """Whether its task has ended."""
        return bool(select.select([self.ended], [], [], 0)[0]) and os.read(self.ended, 1) == b"."

    def close(self) -> None:
        """Close the pipes. A worker without a task then ends by itself."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        os.close(self.alive)
        os.close(self.ended)

    def look(self) -> int:
        """Memory that the process and its children use now (bytes); 0 if it is unknown. Also updates `peak`."""
        with suppress(psutil.Error):
            own = psutil.Process(self.process.pid)
            now = sum(p.memory_info().rss for p in (own, *own.children(recursive=True)))
            self.peak = max(self.peak, now)
            return int(now)
        return 0


class Pool:
    """Runs tasks in workers, which end with the `with` block. Results are in the run directories."""

    def __init__(self, tasks: int, *, at_once: int, per_gpu: int, retries: int, devices: int = 1) -> None:
        """There are at most `tasks` workers. See LocalLauncherConf for the other arguments.

        devices: number of processes of each task.
        """
        self._limits, self._devices = (tasks, at_once, per_gpu), devices
        self._claim = ExitStack()
        self._free: list[Slot] = []
        self._running: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._retries = retries
        self._largest = 0

    def _divide(self, free: int) -> int:
        """Divide the free cores into slots. Returns the number of threads of all workers."""
        self._free = slots(*self._limits, free, self._devices)
        if free < cores():
            text = "other alignlab commands compute on this machine: %s for the points, of %d"
            log.info(text, counted(free, "core"), cores())
        return sum(self._devices * slot.threads for slot in self._free)

    def __enter__(self) -> Pool:
        self._claim.enter_context(claimed(self._divide))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all workers, also after an error."""
        for worker in self._running:
            worker.process.terminate()
        for worker in self._idle:
            worker.close()
        _wait_for((*self._running, *self._idle))
        for worker in self._running:  # not earlier: a closed pipe also stops a worker, before its state is saved
            worker.close()
        self._claim.close()

    @property
    def workers(self) -> int:
        """Largest number of workers."""
        return len(self._free) + len(self._idle) + len(self._running)

    def warm_up(self, most: int) -> None:
        """Start at most `most` workers, as far as memory allows. They import libraries while the first tasks run."""
        while self._free and len(self._idle) < most and self._has_room(self._idle, []):
            self._idle.append(_start(self._free.pop()))

    def run(self, tasks: Sequence[Task], on_finished: OnFinished) -> None:
        """Run tasks that do not depend on each other.

        Raises KeyboardInterrupt after a signal, once the workers have ended.
        """
        free, running, idle = self._free, self._running, self._idle
        gpus = any(slot.gpu is not None for slot in (*free, *(worker.slot for worker in idle)))
        ready = compiled_where_it_pays(tasks, self.workers, gpus=lambda: gpus)
        waiting = deque((task, 1) for task in unfinished(ready, on_finished))
        deadline = float("inf")  # time at which workers that still run are killed
        with InterruptCounter() as stops:
            while running or (waiting and not stops.signals):
                self._drop_dead_workers()
                while waiting and (idle or free) and not stops.signals and self._has_room(running, idle):
                    worker = idle.pop() if idle else _start(free.pop())
                    running.append(worker)
                    worker.give(*waiting.popleft())
                time.sleep(_LOOK)
                if stops.news():
                    deadline = time.monotonic() + _GRACE if stops.signals > 1 else deadline
                    for worker in running:
                        worker.process.send_signal(signal.SIGINT)
                for worker in running:
                    worker.look()
                    if time.monotonic() > deadline:
                        worker.process.kill()
                for worker in running[:]:
                    dead = worker.process.poll() is not None
                    if not (dead or worker.has_ended()):
                        continue
                    running.remove(worker)
                    self._largest = max(self._largest, worker.peak)
                    assert worker.task is not None
                    again = self._ended(worker, worker.task, stopping=stops.signals > 0)
                    waiting.extendleft((run, worker.attempt + 1) for run in reversed(again))
                    for name in worker.task.names:
                        if name not in [run.name for run in again]:
                            on_finished(name)
                    if dead or again or stops.signals:  # after a lack of memory, the memory of a process is fragmented
                        worker.close()
                        _wait_for([worker])
                        free.append(worker.slot)
                    else:
                        idle.append(worker)
        if stops.signals:
            raise KeyboardInterrupt

    def _drop_dead_workers(self) -> None:
        """Free the slots of workers that died while they had no task."""
        for worker in [worker for worker in self._idle if worker.process.poll() is not None]:
            self._idle.remove(worker)
            worker.close()
            self._free.append(worker.slot)

    def _has_room(self, running: Sequence[_Worker], idle: Sequence[_Worker]) -> bool:
        """Whether the memory suffices for one more task, if the running ones come to need as much as the largest.

        One task may always run.
        """
        if not running:
            return True
        need = max(self._largest, *(worker.peak for worker in running), _UNKNOWN)
        available, total = memory()
        to_come = sum(max(0.0, need - worker.look()) for worker in (*running, *idle[-1:]))
        return bool(available - to_come - (0 if idle else need) > _SPARE * total)

    def _ended(self, worker: _Worker, task: Task, *, stopping: bool) -> list[RunTask]:
        """The runs of an ended task that are tried again. If the worker died, their records state how."""
        code = worker.process.returncode
        return retries_of(
            task,
            None if stopping or code in (None, 0) else _describe_exit(code),
            left=0 if stopping else self._retries + 1 - worker.attempt,
            out_of_memory=oom_kills() > worker.oom_kills,
        )


def _start(slot: Slot) -> _Worker:
    worker_alive, alive = os.pipe()
    ended, worker_ended = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "alignlab.sweep.launchers.worker", str(worker_alive), str(worker_ended)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # with its first task, output goes to the task's log
        env=slot.environment(),
        pass_fds=(worker_alive, worker_ended),
        start_new_session=True,  # so that Ctrl-C reaches only this process, which passes it on
    )
    os.close(worker_alive)
    os.close(worker_ended)
    return _Worker(slot, process, alive, ended)


def _wait_for(workers: Sequence[_Worker]) -> None:
    """Wait until all workers have ended. Those that take longer than _GRACE are killed."""
    until = time.monotonic() + _GRACE
    for worker in workers:
        try:
            worker.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


def _describe_exit(code: int) -> str:
    """The exit code of a process in words. A negative code is the number of a signal."""
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
