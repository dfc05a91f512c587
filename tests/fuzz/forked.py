"""Runs a command of alignlab in a process that is forked from this one: it can hang, crash or exit without harm."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Exit codes that the documentation names.
DOCUMENTED = (0, 1, 2, 3, 130)
_BROKE = 99  # the child's exit code after an exception that no command caught
_MEMORY = 6 << 30  # bytes of address space beyond what the process has when it begins


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    code: its exit code; negative for the signal that killed it; None if it took longer than it may.
    text: what it printed.
    left: half-written files that it left in its working directory.
    """

    code: int | None
    text: str
    left: list[str]
    seconds: float

    @property
    def kind(self) -> str:
        """The outcome in a word or two."""
        if self.code in (None, -signal.SIGXCPU):
            return "hang"
        if self.code is not None and self.code < 0:
            return "crash"
        if self.code not in DOCUMENTED or "Traceback (most recent call last)" in self.text:
            return "traceback"
        if self.left:
            return "half-written"
        return "accepted" if self.code == 0 else "refused in words" if self.text.strip() else "silent"

    @property
    def is_good(self) -> bool:
        return self.kind in ("accepted", "refused in words")


# Modules that commands import when they need them. Imported before the fork, they cost each command nothing.
_MODULES = (
    "alignlab.cli.check",
    "alignlab.cli.evaluate",
    "alignlab.cli.report",
    "alignlab.cli.runs",
    "alignlab.cli.train",
    "alignlab.pipeline.evaluate",
    "alignlab.pipeline.run",
    "alignlab.training.audit_rows",
    "alignlab.training.fit",
    "datasets",
    "pyarrow.parquet",
    "transformers.models.llama.modeling_llama",
)


def run_forked(argv: Sequence[str], folder: Path, *, seconds: float = 60.0, stdin: str = "") -> Ended:
    """Run `alignlab <argv>` in a folder, in a forked process with limited time and memory.

    seconds: of processor time; of time in all, four times as much, since other processes may share the machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for module in _MODULES:
        importlib.import_module(module)
    output, began = folder.with_name(f"{folder.name}.out"), time.monotonic()
    child = os.fork()
    if child == 0:
        _child(argv, folder, output, stdin, seconds)
    code = _wait(child, 4 * seconds)
    left = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.tmp"))
    return Ended(code, output.read_text(errors="replace"), left, time.monotonic() - began)


def _wait(child: int, seconds: float) -> int | None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _child(argv: Sequence[str], folder: Path, output: Path, stdin: str, seconds: float) -> None:
    """The forked process. It never returns."""
    code = _BROKE
    try:
        given = folder.with_name(f"{folder.name}.in")
        given.write_text(stdin)
        for target, file, flags in (
            (0, given, os.O_RDONLY),
            (1, output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            (2, None, 0),
        ):
            os.dup2(1 if file is None else os.open(file, flags, 0o644), target)
        sys.stdin, sys.stdout, sys.stderr = (open(number, mode, closefd=False) for number, mode in enumerate("rww"))  # noqa: SIM115
        os.chdir(folder)
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + _MEMORY, now + _MEMORY))
        spent = int(time.process_time() + seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (spent, spent + 5))
        from alignlab.cli.main import main

        code = main(list(argv))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
