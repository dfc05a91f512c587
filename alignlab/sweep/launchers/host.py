"""The machine that points run on: slots of cores and GPUs, memory, and the kernel's out-of-memory kills."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from alignlab.errors import AlignlabError
from alignlab.runs.cores import CLAIMED, cores, in_use
from alignlab.sweep.launchers.process import library_settings

log = logging.getLogger(__name__)

_IN_USE = 0.1  # a GPU counts as in use if at least this share of its memory is taken
_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Slot:
    """A part of the machine for one worker: a number of threads and, if the machine has GPUs, one GPU or several.

    threads: of each process of the worker's task.
    gpu:     value of CUDA_VISIBLE_DEVICES.
    """

    threads: int
    gpu: str | None = None

    def environment(self) -> dict[str, str]:
        """Environment variables of the worker. Libraries read them when they are imported."""
        gpu = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}
        return {**os.environ, **library_settings(self.threads), CLAIMED: str(os.getpid()), **gpu}


def slots(tasks: int, at_once: int, per_gpu: int, free: int | None = None, devices: int = 1) -> list[Slot]:
    """The machine divided into slots: `per_gpu` for each free GPU or, without GPUs, one for each core.

    free:    number of cores to divide; None for those that no other alignlab command computes on.
    devices: number of processes of each task. A slot has as many GPUs, or cores.

    Raises AlignlabError if this machine has GPUs, but fewer than a task needs.
    If no GPU is free, all of them are used. There are at most `at_once` slots (0: no limit), and at most as many as
    tasks. Without GPUs, `at_once` may exceed the number of cores.
    """
    free = max(1, cores() - sum(in_use().values())) if free is None else free
    usable = free_gpus()
    if not usable and (usable := list(_gpus())):
        log.warning("all GPUs are in use by other processes; the points share them")
    if usable and len(usable) < devices:
        text = f"each point computes on {devices} GPUs, but only {len(usable)} can be used on this machine"
        raise AlignlabError(f"{text}\n  type: trainer.devices={len(usable)}")
    together = [",".join(usable[i : i + devices]) for i in range(0, len(usable) - devices + 1, devices)]
    gpus = [gpu for gpu in together for _ in range(per_gpu)]
    room = len(gpus) or at_once or max(1, free // devices)  # points can share cores, but not the memory of GPUs
    count = max(1, min(tasks, room, at_once or room))
    threads = max(1, free // (count * devices))
    return [Slot(threads, gpus[i % len(gpus)] if gpus else None) for i in range(count)]


def free_gpus() -> list[str]:
    """GPUs that this process may use and that are not in use, according to nvidia-smi."""
    return [gpu for gpu, share in _gpus().items() if share < _IN_USE]


def share_gpus() -> bool:
    """Whether points should run in processes with one GPU each.

    This is so if several GPUs are free. It is also so if some are free and some are not, because this process would
    take the first GPU, which may be in use.
    """
    in_use = [share >= _IN_USE for share in _gpus().values()]
    return in_use.count(False) > 1 or len(set(in_use)) == 2


def _gpus() -> dict[str, float]:
    """GPU -> share of its memory that is taken (0 if nvidia-smi does not know it), for GPUs that this process may use.

    A GPU has the name that CUDA_VISIBLE_DEVICES gives it. Without that variable it has its UUID, because CUDA may
    number GPUs in another order than nvidia-smi.
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
            known = used.isdecimal() and total.isdecimal()  # "[N/A]" if the GPU shares the machine's memory
            found[index if names and index in names else uuid] = float(used) / float(total) if known else 0.0
    return found


def memory() -> tuple[float, float]:
    """(available, total) memory in bytes, of the machine or of a control group (a container, a job) that has less."""
    memory = psutil.virtual_memory()
    available, total = memory.available, memory.total
    for place, (limit, use, unused) in _groups():
        with suppress(OSError, ValueError):  # the group has no limit, or its files can't be read
            most = int((place / limit).read_text(encoding="utf-8"))
            stat = dict(line.split() for line in (place / "memory.stat").read_text(encoding="utf-8").splitlines())
            used = int((place / use).read_text(encoding="utf-8")) - int(stat.get(unused, 0))
            available, total = min(available, most - used), min(total, most)
    return available, total


def _groups() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Folders of the control groups that may limit this process's memory, innermost first.

    With each come three names: the file with the limit, the file with the use, and the field of `memory.stat` with the
    memory of cached files, which can be freed.
    """
    with suppress(OSError):
        for line in _OWN_GROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, name = line.split(":", 2)
            if not controllers:
                root, names = _GROUPS, ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):  # version 1 of control groups
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                root = _GROUPS / "memory"
            else:
                continue
            inner = root / name.lstrip("/")
            yield from ((place, names) for place in (inner, *inner.parents))


def oom_kills() -> int:
    """Number of processes that the kernel killed for lack of memory: in the control group, or else on the machine."""
    for file, key in (("/sys/fs/cgroup/memory.events", "oom_kill"), ("/proc/vmstat", "oom_kill")):
        with suppress(OSError):
            for line in Path(file).read_text(encoding="utf-8").splitlines():
                name, _, value = line.partition(" ")
                if name == key:
                    return int(value)
    return 0
