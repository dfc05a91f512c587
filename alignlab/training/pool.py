"""Tasks on this machine, each in a process of its own, several at a time; one that dies takes no other with it."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from alignlab.training.launch import Told
from alignlab.training.stops import Stops
from alignlab.training.tasks import Task, tried_again

log = logging.getLogger(__name__)

_LOOK = 0.2  # seconds between two looks at the workers
_GRACE = 10.0  # seconds that a worker has to end after it was told to stop at once
_GB = 2**30
_UNKNOWN = 1.0 * _GB  # what a task is taken to need before any has shown it
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
    """A task in its process."""

    task: Task
    slot: Slot
    attempt: int
    process: subprocess.Popen[bytes]
    output: Path
    oom_kills: int
    peak: int = field(default=0)

    def look(self) -> int:
        """Bytes of memory that it holds now."""
        with suppress(psutil.Error):
            own = psutil.Process(self.process.pid)
            now = sum(p.memory_info().rss for p in (own, *own.children(recursive=True)))
            self.peak = max(self.peak, now)
            return int(now)
        return 0


def slots(tasks: int, at_once: int, per_gpu: int) -> list[Slot]:
    """The machine in parts: `per_gpu` for each GPU that is free or, without GPUs, one for each core; at most `at_once`
    (0: no limit) and no more than there are tasks."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = [gpu for gpu in free_gpus() for _ in range(per_gpu)]
    count = max(1, min(tasks, at_once or len(gpus) or cores))
    threads = max(1, cores // count)
    return [Slot(threads, gpus[i % len(gpus)] if gpus else None) for i in range(count)]


def free_gpus() -> list[str]:
    """GPUs that this process may use and that nobody computes on, by nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.used,memory.total", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if allowed is None else [name.strip() for name in allowed.split(",")]
    found = []
    for line in lines:
        index, uuid, used, total = (part.strip() for part in line.split(","))
        if (names is None or index in names or uuid in names) and float(used) < 0.1 * float(total):
            found.append(index if names is None or index in names else uuid)
    return found


class Pool:
    """Runs tasks in workers. What comes of them stands in the ledger."""

    def __init__(self, *, at_once: int, per_gpu: int, retries: int) -> None:
        """`retries` is for workers that were killed or ran out of memory."""
        self._at_once = at_once
        self._per_gpu = per_gpu
        self._retries = retries
        self._largest = 0

    def run(self, tasks: Sequence[Task], told: Told) -> None:
        """Run tasks that do not need each other. After a signal: KeyboardInterrupt, once the workers have ended."""
        waiting = deque((task, 1) for task in tasks)
        free = slots(len(tasks), self._at_once, self._per_gpu)
        running: list[_Worker] = []
        patience = float("inf")  # when what still runs is killed
        with Stops() as stops, _none_left_behind(running):
            while running or (waiting and not stops.asked):
                while waiting and free and not stops.asked and self._has_room(running):
                    task, attempt = waiting.popleft()
                    running.append(self._start(task, attempt, free.pop()))
                time.sleep(_LOOK)
                if stops.news():
                    patience = time.monotonic() + _GRACE if stops.asked > 1 else patience
                    for worker in running:
                        worker.process.send_signal(signal.SIGINT)
                for worker in running:
                    worker.look()
                    if time.monotonic() > patience:
                        worker.process.kill()
                for worker in [w for w in running if w.process.poll() is not None]:
                    running.remove(worker)
                    free.append(worker.slot)
                    self._largest = max(self._largest, worker.peak)
                    again = self._ended(worker, stopping=stops.asked > 0)
                    if again is None:
                        told(worker.task.name)
                    else:
                        waiting.appendleft((again, worker.attempt + 1))
        if stops.asked:
            raise KeyboardInterrupt

    def _start(self, task: Task, attempt: int, slot: Slot) -> _Worker:
        output = task.logs / f"{task.name}.log"
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "alignlab.training.worker"],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env=slot.environment(),
                start_new_session=True,  # Ctrl-C is ours to pass on
            )
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it died at once: that is seen when it is looked at
            process.stdin.write(pickle.dumps(task))
            process.stdin.flush()
        return _Worker(task, slot, attempt, process, output, _oom_kills())

    def _has_room(self, running: Sequence[_Worker]) -> bool:
        """Memory for one more: what is free, less what those that run will still ask for. One always may run."""
        if not running:
            return True
        need = max(self._largest, *(worker.peak for worker in running), _UNKNOWN)
        memory = psutil.virtual_memory()
        to_come = sum(max(0.0, need - worker.look()) for worker in running)
        return bool(memory.available - to_come - need > _SPARE * memory.total)

    def _ended(self, worker: _Worker, *, stopping: bool) -> Task | None:
        """The task where it is to be tried again; how its worker ended stands in the record."""
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        code = worker.process.returncode
        return tried_again(
            worker.task,
            None if stopping or code in (0, 130) else _in_words(code),
            left=0 if stopping else self._retries + 1 - worker.attempt,
            out_of_memory=_oom_kills() > worker.oom_kills,
        )


@contextmanager
def _none_left_behind(workers: Sequence[_Worker]) -> Iterator[None]:
    try:
        yield
    finally:
        _end_all(workers)


def _end_all(workers: Sequence[_Worker]) -> None:
    """Nothing that was started is left behind, whatever went wrong here."""
    for worker in workers:
        worker.process.terminate()
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


def _oom_kills() -> int:
    """How often the kernel has killed for memory: in the control group where it says so, else on the machine."""
    for file, key in (("/sys/fs/cgroup/memory.events", "oom_kill"), ("/proc/vmstat", "oom_kill")):
        with suppress(OSError):
            for line in Path(file).read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == key:
                    return int(value)
    return 0
