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
from types import FrameType

import psutil

from alignlab.ledger.run_dir import FINISHED
from alignlab.training.launch import Told
from alignlab.training.tasks import RunTask, Task

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
        self._signals = 0
        self._patience = float("inf")  # when what still runs is killed

    def run(self, tasks: Sequence[Task], told: Told) -> None:
        """Run tasks that do not need each other. After a signal: KeyboardInterrupt, once the workers have ended."""
        waiting = deque((task, 1) for task in tasks)
        free = slots(len(tasks), self._at_once, self._per_gpu)
        running: list[_Worker] = []
        with self._signals_counted(running):
            while running or (waiting and not self._signals):
                while waiting and free and not self._signals and self._has_room(running):
                    task, attempt = waiting.popleft()
                    running.append(self._start(task, attempt, free.pop()))
                time.sleep(_LOOK)
                for worker in running:
                    worker.look()
                    if time.monotonic() > self._patience:
                        worker.process.kill()
                for worker in [w for w in running if w.process.poll() is not None]:
                    running.remove(worker)
                    free.append(worker.slot)
                    self._largest = max(self._largest, worker.peak)
                    again = self._ended(worker)
                    if again is None:
                        told(worker.task.name)
                    else:
                        waiting.appendleft((again, worker.attempt + 1))
        if self._signals:
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

    def _ended(self, worker: _Worker) -> Task | None:
        """Put into the record how a worker ended; returns the task where it is to be tried again."""
        task, code = worker.task, worker.process.returncode
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        if not isinstance(task, RunTask):
            if code not in (0, 130):
                log.warning("%s: its process ended with %s; see %s", task.name, _in_words(code), worker.output)
            return None
        state = task.run.state()
        if state.get("status") in FINISHED or code in (0, 130) or self._signals:
            return None
        out_of_memory = _oom_kills() > worker.oom_kills or "out of memory" in str(state.get("reason")).lower()
        if state.get("status") != "failed":
            text = _in_words(code) + (", out of memory" if out_of_memory else "")
            task.run.end("failed", f"its process ended with {text}", id=task.name, sweep=task.sweep)
        elif not out_of_memory:
            return None  # it said itself why, and would say so again
        if worker.attempt > self._retries:
            return None
        again = task.in_smaller_portions() if out_of_memory else task
        smaller = f", {again.plan.train.trainer.micro_batch_size} rows a forward" if out_of_memory else ""
        log.warning("%s: %s; tried again%s", task.name, task.run.record().get("reason"), smaller)
        return again

    @contextmanager
    def _signals_counted(self, running: Sequence[_Worker]) -> Iterator[None]:
        """The first SIGINT or SIGTERM lets workers save their state, the second stops them at once."""

        def count(number: int, frame: FrameType | None) -> None:
            self._signals += 1
            if self._signals == 1:
                log.warning("stopping: what runs saves its state first; once more stops at once")
            else:
                self._patience = time.monotonic() + _GRACE
            for worker in running:
                worker.process.send_signal(signal.SIGINT)

        before = {number: signal.signal(number, count) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            _end_all(running)


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
