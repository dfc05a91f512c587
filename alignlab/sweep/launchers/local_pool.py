"""Tasks on this machine in processes of their own, several at a time; one that dies takes no other with it.

A process works on one task at a time, then on the next: what it has imported, compiled and read serves again, also for
tasks that are given later.
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
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

import psutil

from alignlab.sweep.launchers.host import Slot, memory, oom_kills, slots
from alignlab.sweep.launchers.interrupts import InterruptCounter
from alignlab.sweep.tasks import OnFinished, RunTask, Task, compiled_where_it_pays, retries_of, unfinished

log = logging.getLogger(__name__)

_LOOK = 0.2  # seconds between two looks at the workers
_GRACE = 10.0  # seconds that a worker has to end after it was told to stop at once
_GB = 2**30
_UNKNOWN = 1.0 * _GB  # what a task is taken to need before any has shown it
_SPARE = 0.05  # of all memory, kept free


@dataclass
class _Worker:
    """A process and the task that it has; `alive` and `ended` are our ends of its pipes."""

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
        with suppress(BrokenPipeError):  # it died: that is seen when it is looked at
            self.process.stdin.write(pickle.dumps((task, output)))
            self.process.stdin.flush()

    def has_ended(self) -> bool:
        """Whether its task has."""
        return bool(select.select([self.ended], [], [], 0)[0]) and os.read(self.ended, 1) == b"."

    def close(self) -> None:
        """Let go of its pipes: without a task it ends by itself."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        os.close(self.alive)
        os.close(self.ended)

    def look(self) -> int:
        """Bytes of memory that it holds now."""
        with suppress(psutil.Error):
            own = psutil.Process(self.process.pid)
            now = sum(p.memory_info().rss for p in (own, *own.children(recursive=True)))
            self.peak = max(self.peak, now)
            return int(now)
        return 0


class Pool:
    """Runs tasks in workers, which end with its `with` block. What comes of the tasks stands in the ledger."""

    def __init__(self, tasks: int, *, at_once: int, per_gpu: int, retries: int) -> None:
        """At most `tasks` workers; `retries` is for those that were killed or ran out of memory."""
        self._free = slots(tasks, at_once, per_gpu)
        self._running: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._retries = retries
        self._largest = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing that was started is left behind, whatever went wrong."""
        for worker in self._running:
            worker.process.terminate()
        for worker in self._idle:
            worker.close()
        _wait_for((*self._running, *self._idle))
        for worker in self._running:  # only now: closed pipes are another signal, and a second one does not wait
            worker.close()

    @property
    def workers(self) -> int:
        """How many there may be."""
        return len(self._free) + len(self._idle) + len(self._running)

    def warm_up(self, most: int) -> None:
        """Start workers, at most so many and as memory has room: they import what they need beside the first tasks."""
        while self._free and len(self._idle) < most and self._has_room(self._idle, []):
            self._idle.append(_start(self._free.pop()))

    def run(self, tasks: Sequence[Task], on_finished: OnFinished) -> None:
        """Run tasks that do not need each other. After a signal: KeyboardInterrupt, once the workers have ended."""
        free, running, idle = self._free, self._running, self._idle
        gpus = any(slot.gpu is not None for slot in (*free, *(worker.slot for worker in idle)))
        ready = compiled_where_it_pays(tasks, self.workers, gpus=lambda: gpus)
        waiting = deque((task, 1) for task in unfinished(ready, on_finished))
        patience = float("inf")  # when what still runs is killed
        with InterruptCounter() as stops:
            while running or (waiting and not stops.asked):
                self._let_go_of_the_dead()
                while waiting and (idle or free) and not stops.asked and self._has_room(running, idle):
                    worker = idle.pop() if idle else _start(free.pop())
                    running.append(worker)
                    worker.give(*waiting.popleft())
                time.sleep(_LOOK)
                if stops.news():
                    patience = time.monotonic() + _GRACE if stops.asked > 1 else patience
                    for worker in running:
                        worker.process.send_signal(signal.SIGINT)
                for worker in running:
                    worker.look()
                    if time.monotonic() > patience:
                        worker.process.kill()
                for worker in running[:]:
                    dead = worker.process.poll() is not None
                    if not (dead or worker.has_ended()):
                        continue
                    running.remove(worker)
                    self._largest = max(self._largest, worker.peak)
                    assert worker.task is not None
                    again = self._ended(worker, worker.task, stopping=stops.asked > 0)
                    waiting.extendleft((run, worker.attempt + 1) for run in reversed(again))
                    for name in worker.task.names:
                        if name not in [run.name for run in again]:
                            on_finished(name)
                    if dead or again or stops.asked:  # what has run out of memory once has it in pieces
                        worker.close()
                        _wait_for([worker])
                        free.append(worker.slot)
                    else:
                        idle.append(worker)
        if stops.asked:
            raise KeyboardInterrupt

    def _let_go_of_the_dead(self) -> None:
        """Workers that died without a task."""
        for worker in [worker for worker in self._idle if worker.process.poll() is not None]:
            self._idle.remove(worker)
            worker.close()
            self._free.append(worker.slot)

    def _has_room(self, running: Sequence[_Worker], idle: Sequence[_Worker]) -> bool:
        """Memory for one more: what is free, less what those that run will still ask for. One always may run."""
        if not running:
            return True
        need = max(self._largest, *(worker.peak for worker in running), _UNKNOWN)
        available, total = memory()
        to_come = sum(max(0.0, need - worker.look()) for worker in (*running, *idle[-1:]))
        return bool(available - to_come - (0 if idle else need) > _SPARE * total)

    def _ended(self, worker: _Worker, task: Task, *, stopping: bool) -> list[RunTask]:
        """What of the task is to be tried again; how its worker ended, if it did, stands in the record."""
        code = worker.process.returncode
        return retries_of(
            task,
            None if stopping or code in (None, 0) else _in_words(code),
            left=0 if stopping else self._retries + 1 - worker.attempt,
            out_of_memory=oom_kills() > worker.oom_kills,
        )


def _start(slot: Slot) -> _Worker:
    told_alive, alive = os.pipe()
    ended, tells_ended = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "alignlab.sweep.launchers.worker", str(told_alive), str(tells_ended)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # until it has a task, whose log takes it
        env=slot.environment(),
        pass_fds=(told_alive, tells_ended),
        start_new_session=True,  # Ctrl-C is ours to pass on
    )
    os.close(told_alive)
    os.close(tells_ended)
    return _Worker(slot, process, alive, ended)


def _wait_for(workers: Sequence[_Worker]) -> None:
    """Until all have ended; those that don't are killed."""
    until = time.monotonic() + _GRACE
    for worker in workers:
        try:
            worker.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


def _in_words(code: int) -> str:
    """Exit code or signal of a process."""
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
