"""The machine that points run on: its cores and GPUs in slots, its memory, what the kernel killed."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from alignlab.sweep.launchers.process import library_settings

log = logging.getLogger(__name__)

_IN_USE = 0.1  # share of a GPU's memory from which on somebody computes on it
_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Slot:
    """A part of the machine for one worker: its threads and, where there are any, its GPU."""

    threads: int
    gpu: str | None = None

    def environment(self) -> dict[str, str]:
        """What the worker's libraries read before they start."""
        gpu = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}
        return {**os.environ, **library_settings(self.threads), **gpu}


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


def memory() -> tuple[float, float]:
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


def oom_kills() -> int:
    """How often the kernel has killed for memory: in the control group where it says so, else on the machine."""
    for file, key in (("/sys/fs/cgroup/memory.events", "oom_kill"), ("/proc/vmstat", "oom_kill")):
        with suppress(OSError):
            for line in Path(file).read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == key:
                    return int(value)
    return 0
