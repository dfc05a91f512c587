"""The processes that train one run together, one for each device. The first one leads: it alone decides and writes.

The others follow it. They take tasks from the leader through a key-value store, and do nothing else. There are two
kinds of teams:

- Without torchrun or SLURM, the leader starts the followers for one run, and they end with it, whatever ends it.
- torchrun or `srun` starts all processes, also on other machines. They are a team for the whole command.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from alignlab.errors import AlignlabError, ProcessError
from alignlab.plugins import packed, unpacked
from alignlab.runs.cores import CLAIMED
from alignlab.strategies.base import PATIENCE
from alignlab.strategies.place import Place, given_place, variables_set

log = logging.getLogger(__name__)

_OVER = b"over"  # in place of a task: the command is over
_LOOK = 0.2  # seconds between two looks at the followers
_WAIT = 5.0  # seconds in which a follower says why it has left
_STUCK = 15.0  # seconds after which a leader that waits for a follower that has ended counts as stuck
_GRACE = 10.0  # seconds that a follower may take to end
_LOST = re.compile(r"gloo|nccl|connection (closed|reset)", re.IGNORECASE)
_RESUMES = "\n  the same command resumes from the last training state"


@dataclass(frozen=True)
class Task:
    """A task for all processes. Followers call `work` with their place, inside a connection of all processes.

    device: type of the devices: cpu, cuda.
    """

    work: Callable[[Place], Any]
    device: str


class Team:
    """The leader's side of a team. Each task of it has a number, from 1."""

    def __init__(self, place: Place, store: Any, followers: Sequence[subprocess.Popen[bytes]] = ()) -> None:
        """followers: the processes that this one has started, in the order of their ranks, from 1."""
        self.place, self._store, self._followers = place, store, followers
        self._number = 0

    @contextmanager
    def together(self, task: Task, stuck: Callable[[AlignlabError], None]) -> Iterator[None]:
        """Give the followers a task, and do the leader's part of it in the block.

        stuck: called in another thread if a follower has ended and the leader still waits for it.
        Raises the error of a follower, or ProcessError if one has ended, in place of errors of the connection.
        """
        self._number += 1
        self._store.set(f"task/{self._number}", packed(task))
        over = threading.Event()
        threading.Thread(target=self._watch, args=(over, stuck), daemon=True).start()
        try:
            with self.explained(), connected(self.place, self._store, self._number, task.device):
                yield
        finally:
            over.set()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """In place of errors of the connection, raise the error of the follower that has left."""
        try:
            yield
        except Exception as error:
            if not is_of_connection(error):
                raise
            raise self._cause() from error

    def dismiss(self) -> None:
        """Tell the followers that there are no further tasks, and wait until they have ended."""
        self._number += 1
        self._store.set(f"task/{self._number}", _OVER)
        until = time.monotonic() + _GRACE
        while time.monotonic() < until and self._store.add("left", 0) < self.place.world - 1:
            time.sleep(_LOOK)

    def _cause(self) -> AlignlabError:
        """Why a follower has left. It may take a moment to say so."""
        until = time.monotonic() + _WAIT
        while True:
            for rank in range(1, self.place.world):
                key = f"error/{self._number}/{rank}"
                if self._store.check([key]):
                    error, trace = pickle.loads(self._store.get(key))
                    log.error("process %d of %d failed:\n%s", rank + 1, self.place.world, trace)
                    return error
            last = time.monotonic() > until
            for rank, process in enumerate(self._followers, start=1):
                # One that has lost the connection itself ends too, with exit code 1, but has not caused it.
                if process.poll() is not None and (process.returncode != 1 or last):
                    how = _exit_in_words(process.returncode)
                    return ProcessError(f"process {rank + 1} of {self.place.world} ended with {how}{_RESUMES}")
            if last:
                return ProcessError(f"the connection to another of the {self.place.world} processes is lost{_RESUMES}")
            time.sleep(_LOOK)

    def _watch(self, over: threading.Event, stuck: Callable[[AlignlabError], None]) -> None:
        """Call `stuck` if a follower has ended, but the leader still waits for it. The libraries may wait for ever."""
        while not over.wait(_LOOK):
            if any(process.poll() is not None for process in self._followers):
                if not over.wait(_STUCK):
                    stuck(self._cause())
                return


@contextmanager
def own_team(processes: int, threads: int) -> Iterator[Team]:
    """A team of processes of this machine, which this process starts and leads. They end with the block.

    threads: number of threads of each process.
    """
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        store = dist.TCPStore(
            "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
        )
    heard, alive = os.pipe()
    own = {**_loopback(), **os.environ, "TQDM_DISABLE": "1", CLAIMED: str(os.getpid())}
    own |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    followers = [
        subprocess.Popen(
            [sys.executable, "-m", "alignlab.training.follower", *map(str, (port, rank, processes, heard))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=own,
            pass_fds=(heard,),
            start_new_session=True,  # so that Ctrl-C reaches the leader only
        )
        for rank in range(1, processes)
    ]
    os.close(heard)
    team = Team(Place(0, processes, 0, processes), store, followers)
    try:
        with variables_set(_loopback()):
            yield team
        team.dismiss()
    finally:
        os.close(alive)  # followers that are left end themselves now
        _end(followers)


@contextmanager
def given_team() -> Iterator[None]:
    """In the first process that torchrun or SLURM has started: lead the others, until the block ends."""
    global _given
    place = given_place()
    if place.world == 1:
        yield
        return
    _given = Team(place, store_of_cluster(place))
    try:
        yield
    finally:
        _given.dismiss()
        _given = None


_given: Team | None = None


def present_team() -> Team | None:
    """The team that torchrun or SLURM has started and that this process leads; None if there is none."""
    return _given


def store_of_cluster(place: Place) -> Any:
    """The key-value store of the processes that torchrun or SLURM has started."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        store, _, _ = next(iter(dist.rendezvous("env://")))
        return store
    host, port = address_of_slurm()
    return dist.TCPStore(host, port, is_master=place.rank == 0, wait_for_workers=False)


def address_of_slurm() -> tuple[str, int]:
    """(host, port) where the first process of a job step listens; MASTER_ADDR and MASTER_PORT decide otherwise."""
    from lightning.fabric.plugins.environments import SLURMEnvironment

    given = os.environ
    first = SLURMEnvironment.resolve_root_node_address(given.get("SLURM_STEP_NODELIST", "127.0.0.1"))
    number = int(given.get("SLURM_JOB_ID", "0")) + 101 * int(given.get("SLURM_STEP_ID", "0"))
    return given.get("MASTER_ADDR", first), int(given.get("MASTER_PORT", 15_000 + number % 10_000))


def follow(place: Place, store: Any, *, stay: bool) -> int:
    """Work on the tasks of the leader until it dismisses this process. Returns the exit code.

    stay: take further tasks after one that failed.
    """
    number = 0
    store.set_timeout(PATIENCE)
    while True:
        number += 1
        try:
            content = store.get(f"task/{number}")
        except dist.DistError:  # the leader is gone
            return 1
        if content == _OVER:
            with suppress(dist.DistError):
                store.add("left", 1)
            return 0
        try:
            task: Task = unpacked(content)
            with connected(place, store, number, task.device):
                task.work(place)
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, Exception) and not is_of_connection(error):
                with suppress(dist.DistError):
                    store.set(f"error/{number}/{place.rank}", _pickled(error))
            if not stay:
                return 1


@contextmanager
def connected(place: Place, store: Any, number: int, device: str) -> Iterator[None]:
    """A process group of all processes for the task with this number."""
    if device == "cuda":
        torch.cuda.set_device(place.local)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        store=dist.PrefixStore(f"group/{number}", store),
        rank=place.rank,
        world_size=place.world,
        timeout=PATIENCE,
    )
    try:
        with variables_set({"LOCAL_RANK": str(place.local)}):  # DeepSpeed reads it in every pass
            yield
    finally:
        _disconnect()


def _disconnect() -> None:
    """End the process group. DeepSpeed has groups of its own in it, which it would use for the next task otherwise."""
    deepspeed = sys.modules.get("deepspeed")
    if deepspeed and deepspeed.comm.is_initialized():
        deepspeed.comm.destroy_process_group()
    else:
        dist.destroy_process_group()


def is_of_connection(error: BaseException) -> bool:
    """Whether an error says that the connection to another process is lost."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and bool(_LOST.search(str(error))))


def leave_late(seconds: float = 20.0) -> None:
    """Let this follower end some seconds after a signal. Until then the leader may save the state with its help."""

    def late(*args: Any) -> None:
        timer = threading.Timer(seconds, os._exit, args=(143,))
        timer.daemon = True
        timer.start()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, late)
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # for the leader only, which saves the state
        signal.signal(number, signal.SIG_IGN)


def _loopback() -> dict[str, str]:
    """The environment variable that keeps gloo on loopback, if there is an interface of the usual name."""
    return {"GLOO_SOCKET_IFNAME": "lo"} if "lo" in (name for _, name in socket.if_nameindex()) else {}


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End followers. They have nothing to save."""
    for process in processes:
        try:
            process.wait(_LOOK)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _pickled(error: Exception) -> bytes:
    """The error with its traceback. Errors that the user can't fix, or that can't be sent, become a ProcessError."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, AlignlabError):
        with suppress(Exception):
            content = pickle.dumps((error, trace))
            pickle.loads(content)
            return content
    return pickle.dumps((ProcessError(f"{type(error).__name__}: {error}"), trace))


def _exit_in_words(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
