"""The place of this process among those that torchrun or SLURM started together, from environment variables."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """One process of a run that computes on several devices.

    rank:  number of the process among all of them, from 0. Process 0 leads: it alone writes.
    world: number of all processes.
    local: number of the process on its node, from 0. It computes on the device with this number.
    each:  number of processes on each node.
    """

    rank: int
    world: int
    local: int
    each: int

    @property
    def node(self) -> int:
        """Number of the node, from 0."""
        return self.rank // self.each

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return max(1, self.world // self.each)


ALONE = Place(rank=0, world=1, local=0, each=1)


def given_place() -> Place:
    """The place of this process as torchrun or `srun` has set it; ALONE if neither has started several processes.

    A job of `sbatch` that starts its command without `srun` has one process, whatever its number of tasks.
    """
    given = os.environ
    if "TORCHELASTIC_RUN_ID" in given:
        return _place("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if int(given.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        nodes = int(given.get("SLURM_STEP_NUM_NODES", "1"))
        rank, world, local = (int(given[f"SLURM_{name}"]) for name in ("PROCID", "STEP_NUM_TASKS", "LOCALID"))
        return Place(rank, world, local, world // nodes)
    return ALONE


@contextmanager
def variables_set(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside the block, unless they are set already."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def _place(*names: str) -> Place:
    return Place(*(int(os.environ[name]) for name in names))
