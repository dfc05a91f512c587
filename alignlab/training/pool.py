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
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil

from alignlab.training.stops import Stops
from alignlab.training.tasks import RunTask, Task, Told, compiled_where_it_pays, left_to_do, tried_again

log = logging.getLogger(__name__)

_LOOK = 0.2  # seconds between two looks at the workers
_GRACE = 10.0  # seconds that a worker has to end after it was told to stop at once
_GB = 2**30
_UNKNOWN = 1.0 * _GB  # what a task is taken to need before any has shown it
_IN_USE = 0.1  # share of a GPU's memory from which on somebody computes on it
_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_SPARE = 0.05  # of all memory, kept free


@dataclass(frozen=True)
class Slot:
    """A part of the machine for one worker: its threads and, where there are any, its GPU."""

    threads: int
    gpu: str | None = None

    def environment(self) -> dict[str, str]:
        """What the worker's libraries read before they start."""
        told = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        return {**os.environ, **told, **({} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu})}


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
        output.parent.mkdir(parents=True, exist_ok=True)
        self.task, self.attempt, self.oom_kills = task, attempt, _oom_kills()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it died: that is seen when it is looked at
            self.process.stdin.write(pickle.dumps((task, str(output))))
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


def slots(tasks: int, at_once: int, per_gpu: int) -> list[Slot]:
    """The machine in parts: `per_gpu` for each GPU that is free (each at all, where none is) or, without GPUs, one for
    each core; at most `at_once` (0: no limit) and no more than there are tasks."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    usable = free_gpus()
    if not usable and (usable := list(_gpus())):
        log.warning("all GPUs are in use by others; points share them")
    gpus = [gpu for gpu in usable for _ in range(per_gpu)]
    room = len(gpus) or at_once or cores  # cores can be shared, the memory of GPUs can't
    count = max(1, min(tasks, room, at_once or room))
    threads = max(1, cores // count)
    return [Slot(threads, gpus[i % len(gpus)] if gpus else None) for i in range(count)]


def free_gpus() -> list[str]:
    """GPUs that this process may use and that nobody computes on, by nvidia-smi."""
    return [gpu for gpu, share in _gpus().items() if share < _IN_USE]


def share_gpus() -> bool:
    """Whether points belong in processes with a GPU each: several are free, or some only, and perhaps not the first."""
    taken = [share >= _IN_USE for share in _gpus().values()]
    return taken.count(False) > 1 or len(set(taken)) == 2


def _gpus() -> dict[str, float]:
    """GPUs that this process may use, each with the share of its memory that is taken (0 where it is not told).

    By the names that it was given them by, else by those that are the same for CUDA, which may count in another order.
    """
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.used,memory.total", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return {}
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if allowed is None else [name.strip() for name in allowed.split(",")]
    found = {}
    for line in lines:
        index, uuid, used, total = (part.strip() for part in line.split(","))
        if names is None or index in names or uuid in names:
            told = used.isdecimal() and total.isdecimal()  # "[N/A]" where memory is the machine's
            found[index if names and index in names else uuid] = float(used) / float(total) if told else 0.0
    return found


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

    def run(self, tasks: Sequence[Task], told: Told) -> None:
        """Run tasks that do not need each other. After a signal: KeyboardInterrupt, once the workers have ended."""
        free, running, idle = self._free, self._running, self._idle
        gpus = any(slot.gpu is not None for slot in (*free, *(worker.slot for worker in idle)))
        ready = compiled_where_it_pays(tasks, self.workers, gpus=lambda: gpus)
        waiting = deque((task, 1) for task in left_to_do(ready, told))
        patience = float("inf")  # when what still runs is killed
        with Stops() as stops:
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
                            told(name)
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
        available, total = _memory()
        to_come = sum(max(0.0, need - worker.look()) for worker in (*running, *idle[-1:]))
        return bool(available - to_come - (0 if idle else need) > _SPARE * total)

    def _ended(self, worker: _Worker, task: Task, *, stopping: bool) -> list[RunTask]:
        """What of the task is to be tried again; how its worker ended, if it did, stands in the record."""
        code = worker.process.returncode
        return tried_again(
            task,
            None if stopping or code in (None, 0) else _in_words(code),
            left=0 if stopping else self._retries + 1 - worker.attempt,
            out_of_memory=_oom_kills() > worker.oom_kills,
        )


def _start(slot: Slot) -> _Worker:
    told_alive, alive = os.pipe()
    ended, tells_ended = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "alignlab.training.worker", str(told_alive), str(tells_ended)],
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


def _memory() -> tuple[float, float]:
    """Bytes that are available, and in all: of the machine, or of a control group (a container, a job) with less."""
    memory = psutil.virtual_memory()
    available, total = memory.available, memory.total
    for place, (limit, use, unused) in _groups():
        with suppress(OSError, ValueError):  # no limit, or none that is told
            most = int((place / limit).read_text())
            stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
            used = int((place / use).read_text()) - int(stat.get(unused, 0))
            available, total = min(available, most - used), min(total, most)
    return available, total


def _groups() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Folders of this process's control groups that may limit its memory, from the innermost on, with the names of
    limit, use, and what of that files could give back."""
    with suppress(OSError):
        for line in _OWN_GROUPS.read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if not controllers:
                root, names = _GROUPS, ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):  # the first version
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                root = _GROUPS / "memory"
            else:
                continue
            inner = root / name.lstrip("/")
            yield from ((place, names) for place in (inner, *inner.parents))


def _oom_kills() -> int:
    """How often the kernel has killed for memory: in the control group where it says so, else on the machine."""
    for file, key in (("/sys/fs/cgroup/memory.events", "oom_kill"), ("/proc/vmstat", "oom_kill")):
        with suppress(OSError):
            for line in Path(file).read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == key:
                    return int(value)
    return 0
