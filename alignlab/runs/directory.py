"""The directory of a run. Every file in it is written completely or not at all, except logs, which grow."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from filelock import BaseFileLock, Timeout

from alignlab.errors import DamagedError, OutputError, TakenError
from alignlab.integrity import DAMAGED, MANIFEST, read_record, set_aside, sha256_of, write_sealed, write_text
from alignlab.locks import file_lock, is_locked, lock_for_a_moment
from alignlab.runs.heartbeat import STILL, beating, is_recent, sign_of_life
from alignlab.runs.record import ESSENTIAL, Status, is_too_deep, with_types
from alignlab.spelling import counted

log = logging.getLogger(__name__)

# What stays of a finished run: its record only, its policy too, or its training state too.
Keep = Literal["record", "policy", "state"]
# A run with one of these has its result: the same config and code would end in the same way again.
FINISHED: tuple[Status, ...] = ("done", "diverged")
_GLANCE = 0.02  # seconds: longer than `is_locked` holds a lock
_VANISHED = "its process ended without a message (killed, or the machine went down)"
_LEFT = "not begun: the command that queued it has ended"

# Records that a warning has named because of fields of a wrong type. There is one warning per record.
_named: set[Path] = set()

# Records that a warning has named because they can't be read.
_unreadable: set[Path] = set()

# Folders of a checkout whose content decides the numbers of a run.
_DECIDES = ("alignlab", "conf", "hydra_plugins", "sweeps")
_PACKAGES = ("alignlab", "torch", "lightning", "transformers", "peft", "datasets", "hydra-core", "omegaconf", "wandb")


@dataclass(frozen=True)
class RunDir:
    """`<output_root>/runs/<id>/` and the files in it."""

    path: Path

    @classmethod
    def of(cls, output_root: str | Path, run_id: str) -> RunDir:
        return cls(Path(output_root) / "runs" / run_id)

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        """The effective config, YAML."""
        return self.path / "config.yaml"

    @property
    def record_file(self) -> Path:
        """Status, versions, fingerprints and summary, JSON."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def frontier(self) -> Path:
        """Exact reward-KL frontier of the reference, JSON; lab runs only."""
        return self.path / "frontier.json"

    @property
    def figures(self) -> Path:
        """Folder of the figures that trackers show (PNG)."""
        return self.path / "figures"

    @property
    def gap(self) -> Path:
        """Where the gap to the frontier comes from, JSON; written by `alignlab plot gap`."""
        return self.path / "gap.json"

    @property
    def dropped(self) -> Path:
        """Rows that were left out, one a line: split, file, row and reason. Absent if none was."""
        return self.path / "dropped.jsonl"

    @property
    def nonfinite(self) -> Path:
        """Rows of the batch in which a number was not finite, one a line. Absent if all numbers were finite."""
        return self.path / "nonfinite.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "train.log"

    @property
    def policy(self) -> Path:
        """The trained policy in Hugging Face format (full model or adapter) with its tokenizer."""
        return self.path / "policy"

    @property
    def last_policy(self) -> Path:
        """The policy after the last update, if `trainer.keep_best` chose another one."""
        return self.path / "last"

    @property
    def merged(self) -> Path:
        """The policy as a full model, if `policy` is an adapter; made when another run starts from it."""
        return self.path / "merged"

    @property
    def checkpoint(self) -> Path:
        """Last training state."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def stacked_checkpoint(self) -> Path:
        """Last training state of a run that is vectorized with others."""
        return self.checkpoint.with_name("stacked.ckpt")

    def half_written(self) -> list[Path]:
        """Temporary files and folders of an attempt that ended, or was killed, while writing them."""
        return [*self.path.glob("*.tmp"), *self.checkpoint.parent.glob("*.tmp")]

    def delete_half_written(self) -> None:
        """Only for the process that has the lock of the run."""
        for left_over in self.half_written():
            if left_over.is_dir():
                shutil.rmtree(left_over, ignore_errors=True)
            else:
                left_over.unlink(missing_ok=True)

    @property
    def heartbeat(self) -> Path:
        """A file with a number that grows while a process works on this run."""
        return self.path / "heartbeat"

    @property
    def lock_file(self) -> Path:
        return self.path.parent / ".locks" / self.id

    def lock(self) -> BaseFileLock:
        """The lock of the one process that works on this run. Raises OutputError if it can't be created."""
        self._make_folder_of_locks()
        return file_lock(self.lock_file)

    def _make_folder_of_locks(self) -> None:
        try:
            self.lock_file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"output_root can't be written: {error}\n  type: output_root=<another folder>") from error

    @contextmanager
    def locked(self, *, wait: bool = True, watched: bool = False) -> Iterator[bool]:
        """Keep every other process from working on this run. Yields whether this process has the run.

        wait:    wait while another process has the run. If it is off, yield False at once instead.
        watched: the heartbeat was watched already (`at_work_elsewhere`), and is still.

        The lock is released when its process ends, for whatever reason. Another machine may not see the lock, depending
        on the file system. So the heartbeat of a run that runs on another machine is watched for some seconds. Its time
        is not compared with a clock, because clocks of two machines may differ. Two machines can be inside at a time
        while nobody has begun the run; `start` lets one of them begin it.
        """
        lock = self.lock()
        try:  # `is_locked` of another process may hold the lock for a moment
            lock.acquire(timeout=_GLANCE, poll_interval=_GLANCE / 5)
        except Timeout:
            if not wait:
                yield False
                return
            self._log_waiting()
            lock.acquire()
        try:
            said = ""
            while not self._is_free(watched=watched):
                if not wait:
                    yield False
                    return
                said = self._log_waiting(said)
                watched = False
            yield True
        finally:
            lock.release()

    def _is_free(self, *, watched: bool) -> bool:
        """Whether no other machine works on this run. If one did and went down, the record says so afterwards.

        watched: the heartbeat was watched already, and is still.
        """
        before = self.record()
        if not _is_elsewhere(before):
            return True
        if not watched and beating([self.heartbeat]):
            return False
        with self.alone():
            if self.record() != before:  # yet another machine has begun it, or noticed the same
                return False
            self.update(status="interrupted", reason=_VANISHED)
        return True

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other process of any machine begin or queue this run. It is for moments, in which records change.

        Raises OutputError if it takes long, because a machine went down in such a moment.
        """
        self._make_folder_of_locks()
        lock = lock_for_a_moment(self.path.parent / ".locks" / f"{self.id}.begin", STILL)
        try:
            lock.acquire(poll_interval=_GLANCE / 5)
        except Timeout as error:
            text = "is in the way: a machine went down at the moment at which it began or queued this run"
            raise OutputError(f"{lock.lock_file} {text}\n  type: rm {shlex.quote(lock.lock_file)}") from error
        try:
            yield
        finally:
            lock.release()

    def is_elsewhere(self) -> bool:
        """Whether the record says that another machine runs it."""
        return _is_elsewhere(self.record())

    def _log_waiting(self, said: str = "") -> str:
        """Say who works on it, unless that was said already. A warning, since a sweep hides what its points tell."""
        record = self.record()
        who = f"process {record['pid']} on {record.get('host')}" if record.get("pid") else "another process"
        if who != said:
            log.warning("%s: %s works on it; waiting", self.id, who)
        return who

    def record(self, *, warn: bool = True) -> dict[str, Any]:
        """The content of run.json; empty if there is no such file, or if it can't be read.

        warn: say in a warning that it can't be read. There is one warning per record.
        """
        try:
            return self._read_record()
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, DamagedError) as error:
            if warn and (file := self.record_file.absolute()) not in _unreadable:
                _unreadable.add(file)
                log.warning("%s: run.json can't be read (%s); the run counts as not run", self.id, error)
            return {}

    def damage(self) -> str:
        """What is wrong with run.json, as text; empty if nothing is wrong or there is no such file."""
        try:
            self._read_record()
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except (OSError, DamagedError) as error:
            return str(error)
        return ""

    def wrong_fields(self) -> list[str]:
        """Names of the fields of the record that `record` leaves out, because they have a wrong type."""
        try:
            return with_types(read_record(self.record_file))[1]
        except (OSError, DamagedError):
            return []

    def _read_record(self) -> dict[str, Any]:
        """The content of run.json without fields of a wrong type.

        Raises DamagedError if it is damaged, or if an essential field has a wrong type.
        """
        whole = read_record(self.record_file)
        if is_too_deep(whole):
            raise DamagedError(self.record_file, "is damaged (nested too deeply)")
        found, wrong = with_types(whole)
        if lost := [key for key in ESSENTIAL if key in whole and key not in found]:
            raise DamagedError(self.record_file, f"is damaged (fields of a wrong type: {', '.join(lost)})")
        if wrong and self.record_file not in _named:
            _named.add(self.record_file)
            log.warning("%s: fields have a wrong type and are left out: %s", self.record_file, ", ".join(wrong))
        return found

    def state(self) -> dict[str, Any]:
        """The record with the current status: a running or queued run whose process is gone is interrupted."""
        return self.current(self.record())

    def current(self, record: dict[str, Any]) -> dict[str, Any]:
        """A record of this run, or its fields that say who works on the run, with the current status."""
        if record.get("status") == "queued":
            by = record.get("queued_by") or []
            ended = by and all(map(self._has_ended, by))
            return {**record, "status": "interrupted", "reason": _LEFT} if ended else record
        if record.get("status") != "running" or self._is_worked_on(record):
            return record
        return _nobody_works_on(record)

    def is_locked(self) -> bool:
        """Whether a process of this machine works on it."""
        return is_locked(self.lock_file)

    def _is_worked_on(self, record: Mapping[str, Any]) -> bool:
        if self.is_locked():
            return True
        return record.get("host") != socket.gethostname() and is_recent(self.heartbeat)

    def status(self) -> Status | None:
        """The current status; None if the run has no record."""
        return self.state().get("status")

    def update(self, **values: Any) -> None:
        """Change fields of run.json atomically. A damaged run.json is renamed first."""
        try:
            before = self._read_record()
        except FileNotFoundError:
            before = {}
        except DamagedError as error:
            log.warning("%s: %s", self.id, set_aside(error, "a new record is begun"))
            before = {}
        write_sealed(self.record_file, {**before, **values})

    def queue(self, **values: Any) -> None:
        """Mark this run as queued, unless it is finished or a process works on it.

        A run that another machine runs stays as it is: finding out whether it still does takes seconds, and the start
        of the run does that.
        """
        if self.is_elsewhere():
            return
        with self.locked(wait=False) as mine, self.alone() if mine else nullcontext():
            record = self.record()
            if mine and record.get("status") not in FINISHED and not _is_elsewhere(record):
                attempts = self._attempts()
                others = [by for by in record.get("queued_by") or () if not self._has_ended(by)]
                this = {"host": socket.gethostname(), "lock": sign_of_life(self.lock_file.parent.absolute())}
                self.update(
                    id=self.id,
                    status="queued",
                    reason=None,
                    attempts=attempts,
                    attempt=len(attempts),
                    queued_by=[*(by for by in others if by != this), this],
                    **values,
                )

    def leave_queued(self) -> None:
        """Keep the run queued after this process ends, because a cluster will run it."""
        with self.alone():
            if self.record().get("status") == "queued":
                self.update(queued_by=None)

    def _has_ended(self, process: Mapping[str, str]) -> bool:
        """Whether a process that queued this run has ended. False on another machine, where this is not known."""
        host, lock = process.get("host"), process.get("lock")
        return host == socket.gethostname() and not (lock and is_locked(self.lock_file.with_name(lock)))

    def start(self, config_yaml: str, *, fresh: bool, again: bool = False, **values: Any) -> list[str]:
        """Create the directory and mark the run as running in this process.

        fresh:  empty the directory first.
        again:  begin the run also if it is finished.
        values: further fields of the record.

        Returns changes since a resumed run was begun, as `name: old -> new` of the code's revision and of packages.
        Raises TakenError if another machine, which did not see this one's lock, has begun the run since it was locked.
        """
        with self.alone():
            return self._start(config_yaml, fresh=fresh, again=again, **values)

    def _start(self, config_yaml: str, *, fresh: bool, again: bool, **values: Any) -> list[str]:
        before, attempts = self.record(), self._attempts()
        if _is_elsewhere(before) or (before.get("status") in FINISHED and not again):
            raise TakenError(f"{self.id}: {before.get('host') or 'another process'} has begun it in the meantime")
        if fresh:
            self._empty(but=DAMAGED)
        self.delete_half_written()
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.config, config_yaml)
        code = {"git": git_revision(), "versions": versions()}
        self.update(
            id=self.id,
            status="running",
            attempt=len(attempts) + 1,
            attempts=attempts,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=now(),
            ended=None,
            reason=None,
            kept=None,
            machine={
                "platform": platform.platform(),
                "cpus": os.cpu_count(),
                "threads": os.environ.get("OMP_NUM_THREADS"),
            },
            cwd=os.getcwd(),  # relative paths in the config start from here
            **({"damaged": before["damaged"]} if "damaged" in before else {}),
            **code,
            **values,
        )
        return [] if fresh or "versions" not in before else _changes(before, code)

    def code_changes(self) -> list[str]:
        """Changes since this run was made: `name: old -> new` of the code's revision and of packages."""
        record = self.record()
        return _changes(record, {"git": git_revision(), "versions": versions()}) if record.get("versions") else []

    def _attempts(self) -> list[dict[str, Any]]:
        """All attempts so far: earlier ones, and the one in the record, if it has begun.

        Only for the process that has the lock of the run.
        """
        state = _nobody_works_on(self.record())
        past = list(state.get("attempts", []))
        if state.get("attempt", 0) > len(past):
            kept = (
                "attempt", "status", "reason", "started", "ended", "host", "pid", "resumed_from", "git", "versions",
            )  # fmt: skip
            past.append({key: state.get(key) for key in kept})
        return past

    def end(self, status: Status, reason: str | None = None, *, keep: Keep = "policy", **values: Any) -> None:
        """Record the final status and its reason.

        keep: whether a run that is done keeps its last training state ("state"), or none. Its policy stays in any case,
              because the run may still be evaluated (see `keep_record_only`).
        """
        about: dict[str, Any] = {}
        if status == "done":
            about = {"kept": "state" if keep == "state" else "policy"}
            about |= {"metrics_sha256": sha256_of(self.metrics)} if self.metrics.is_file() else {}
            about |= {"policy_sha256": sha256_of(sums)} if (sums := self.policy / MANIFEST).is_file() else {}
        self.update(status=status, reason=reason, ended=now(), **about, **values)
        if status == "done":
            last = (self.checkpoint, self.stacked_checkpoint)
            for file in map(earlier_state, last) if keep == "state" else self.states():
                shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
            with suppress(OSError):  # something else is in it, or it is not there
                self.checkpoint.parent.rmdir()

    def metrics_changed(self) -> bool:
        """Whether the metrics of a run that is done are not what they were when it ended. False if that is unknown."""
        digest = self.record().get("metrics_sha256")
        if self.record().get("status") != "done" or not digest:
            return False
        try:
            return sha256_of(self.metrics) != digest
        except OSError:
            return True

    def states(self) -> list[Path]:
        """The training states that are there, and the folders with parts of them (alignlab/models/parts.py)."""
        last = (self.checkpoint, self.stacked_checkpoint)
        files = [file for file in (*last, *map(earlier_state, last)) if file.is_file()]
        return [*files, *sorted(self.checkpoint.parent.glob("parts-*"))]

    def keep_record_only(self) -> None:
        """Delete the weights of a finished run, unless another process works on it. The record says that they are gone.

        Its config, record, metrics and evaluations stay.
        """
        with self.locked(wait=False) as mine:
            record = self.record()
            if not mine or record.get("status") not in FINISHED or record.get("kept") == "record":
                return
            self.update(kept="record")  # first, so that nobody looks for what is half deleted
            for folder in (self.checkpoint.parent, self.policy, self.last_policy, self.merged):
                shutil.rmtree(folder, ignore_errors=True)

    @property
    def lacks_policy(self) -> bool:
        """Whether the run is done and its policy was deleted (`trainer.keep=record`)."""
        record = self.record()
        return record.get("status") == "done" and record.get("kept") == "record"

    def remove(self, *, watched: bool = False) -> bool:
        """Delete the directory. Returns False and deletes nothing if a process works on this run."""
        with self.locked(wait=False, watched=watched) as mine:
            if mine:
                self._empty()
                with suppress(OSError):  # it is a link or a mount point
                    self.path.rmdir()
            return mine

    def _empty(self, but: str | None = None) -> None:
        """Delete the content of the directory, but not the directory, which may be a link or a mount point.

        but: keep files with this text in their names, also those beside the training state.
        """
        kept = self.checkpoint.parent if but else None
        for folder in (self.path, kept):
            for inside in folder.iterdir() if folder and folder.is_dir() else ():
                if inside == kept or (but and but in inside.name):
                    continue
                if inside.is_dir() and not inside.is_symlink():
                    shutil.rmtree(inside)
                else:
                    inside.unlink()


def earlier_state(file: Path) -> Path:
    """The training state that was the last one until `file` was saved."""
    return file.with_name(f"{file.stem}.earlier{file.suffix}")


def at_work_elsewhere(runs: Iterable[RunDir]) -> dict[RunDir, bool]:
    """Run -> whether another machine still works on it, for the runs whose record says so. All are watched at once."""
    elsewhere = {run.heartbeat: run for run in runs if run.is_elsewhere()}
    if elsewhere:
        text = "watching for up to %.0f s whether other machines still work on %s"
        log.info(text, STILL, counted(len(elsewhere), "run"))
    moved = beating(elsewhere)
    return {run: file in moved for file, run in elsewhere.items()}


def now() -> str:
    """The time in UTC, ISO 8601, in seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide the numbers of a run."""
    return dict(_versions())


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=1)
def git_revision() -> str | None:
    """The commit of alignlab's own checkout. None outside a checkout.

    Uncommitted changes of code and config add `+` and a digest of them.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> bytes:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, check=True).stdout

    try:
        head = git("rev-parse", "HEAD").decode().strip()
        changes = [git("diff", "--no-ext-diff", "--no-color", "--full-index", "--binary", "HEAD", "--", *_DECIDES)]
        others = git("ls-files", "-z", "--others", "--exclude-standard", "--", *_DECIDES)
    except (OSError, subprocess.CalledProcessError):
        return None
    for file in (root / os.fsdecode(name) for name in others.split(b"\0") if name):
        if file.suffix in (".py", ".yaml") and file.is_file():  # not temporary files of an editor
            with suppress(OSError):
                changes += [bytes(file), file.read_bytes()]
    return f"{head}+{hashlib.sha256(b'|'.join(changes)).hexdigest()[:8]}" if any(changes) else head


def _is_elsewhere(record: Mapping[str, Any]) -> bool:
    return record.get("status") == "running" and record.get("host") != socket.gethostname()


def _nobody_works_on(record: dict[str, Any]) -> dict[str, Any]:
    if record.get("status") == "running":
        return {**record, "status": "interrupted", "reason": _VANISHED}
    return record


def _changes(before: Mapping[str, Any], code: Mapping[str, Any]) -> list[str]:
    """`name: old -> new` for the revision and every package that differs from the record `before`."""
    old = {"alignlab's revision": before.get("git"), **before.get("versions", {})}
    new = {"alignlab's revision": code["git"], **code["versions"]}
    return [
        f"{name}: {old[name] or 'unknown'} -> {new.get(name) or 'unknown'}"
        for name in old
        if old[name] != new.get(name)
    ]
