"""A process that follows the leader of a run: `python -m alignlab.training.follower <port> <rank> <processes> <alive>`.

`alive` is the file descriptor of a pipe that is never written to. It closes when the leader ends, whatever ends it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings

from alignlab.strategies.place import Place, given_place


def main(port: int, rank: int, processes: int, alive: int) -> int:
    """Follow the leader of this machine that listens on a port. Returns the exit code."""
    threading.Thread(target=_end_when_alone, args=(alive,), daemon=True).start()
    import torch.distributed as dist

    from alignlab.training.team import follow

    _say_nothing()
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    return follow(Place(rank, processes, rank, processes), store, stay=False)


def follow_cluster() -> int:
    """Follow the first of the processes that torchrun or SLURM has started. Returns the exit code."""
    os.environ["TQDM_DISABLE"] = "1"
    from alignlab.training.team import follow, leave_late, store_of_cluster

    _say_nothing()
    leave_late()
    place = given_place()
    return follow(place, store_of_cluster(place), stay=True)


def _say_nothing() -> None:
    """Leave all messages to the leader, which logs the same ones."""
    from alignlab.training.attempt import quiet_libraries

    quiet_libraries()
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())


def _end_when_alone(alive: int) -> None:
    os.read(alive, 1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
