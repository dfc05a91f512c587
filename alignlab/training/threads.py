"""How many threads a run computes with: as many as cores are free, or as many as it began with."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from alignlab.models.efficiency import SMALL
from alignlab.runs.cores import claimed, cores, in_use
from alignlab.runs.directory import RunDir
from alignlab.spelling import counted

log = logging.getLogger(__name__)


@contextmanager
def threads_for(
    runs: Sequence[RunDir], parameters: int | None, *, before: int | None, processes: int = 1
) -> Iterator[None]:
    """Compute with a number of threads inside the block. The log and the records of the runs say how many.

    - Models of up to a million parameters have one thread. A second one helps them little. If other processes compete
      for the cores, two threads wait for each other ten times longer than the work takes.
    - A resumed run has the number that it began with, because sums depend slightly on it.
    - OMP_NUM_THREADS decides otherwise.
    - Otherwise there is a thread for each core that no other alignlab command of this machine uses, at least one.

    parameters: number of parameters of the model; None if it is unknown.
    before:     threads of the earlier attempt that is resumed; None if there is none, or if it is unknown.
    processes:  number of processes of this machine that compute for a run, each with that number of threads. They share
                the free cores.
    """
    import torch

    default = torch.get_num_threads()

    def of_each(free: int) -> int:
        if parameters is not None and parameters <= SMALL:
            return 1
        if before:
            return before
        return default if "OMP_NUM_THREADS" in os.environ else max(1, min(default, free) // processes)

    with claimed(lambda free: processes * of_each(free)) as claim:
        threads = claim // processes
        torch.set_num_threads(threads)
        _say(runs, threads, before)
        try:
            yield
        finally:
            torch.set_num_threads(default)


def _say(runs: Sequence[RunDir], threads: int, before: int | None) -> None:
    others = in_use()
    used = sum(others.values())
    also = ", as before" if before == threads else ""
    if others:
        who = ", ".join(map(str, others))
        also += f"; other alignlab commands compute with {used} on {counted(cores(), 'core')} (process {who})"
    log.info("%s%s", counted(threads, "thread"), also)
    for run in runs:
        run.update(machine={**(run.record().get("machine") or {}), "threads": threads})


def threads_before(run: RunDir) -> int | None:
    """Threads that the last attempt of a run computed with; None if there was none, or if its record has no number."""
    found = (run.record().get("machine") or {}).get("threads")
    return found if isinstance(found, int) and found > 0 else None
