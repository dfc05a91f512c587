"""A sweep of many small runs whose workers and whose command are killed, at moments that a seed draws.

`python -m tests.stress.sweep <folder>` runs 200 points with 30 kills, and prints what it found (`make stress`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from alignlab.runs.directory import RunDir

POINT = [
    "experiment=bandit_ipo", "tracking=none", "trainer.progress=false", "trainer.max_steps=60",
    "trainer.checkpoint_every=5",
]  # fmt: skip
_LOOK = 0.1  # seconds between two looks
_WARM = 0.3  # share of a command's samples that are left out, because libraries are still loaded then


@dataclass(frozen=True)
class Kill:
    """A process that was killed while it had a run. command: whether it was the command itself."""

    run: str
    pid: int
    command: bool


@dataclass
class Outcome:
    """What happened.

    codes:       exit code of each command; the same command is repeated until it ends with 0.
    kills:       processes that were killed.
    memory:      for each command, (bytes of its process after the warm-up, at its end), medians.
    descriptors: for each command, (open descriptors after the warm-up, at its end), medians.
    """

    seconds: float = 0.0
    codes: list[int] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    descriptors: list[tuple[float, float]] = field(default_factory=list)


def stress(
    folder: Path, *, points: int, kills: int, commands: int, seed: int = 0, at_once: int = 2, launcher: str = "local"
) -> Outcome:
    """Run a sweep of `points` runs below a folder until it is done, and then `alignlab runs gc`.

    kills:    how many processes are killed in all.
    commands: how many of these are the command itself, whose workers end with it.
    at_once:  number of workers.
    launcher: local or ray.
    """
    draw, outcome, began = random.Random(seed), Outcome(), time.monotonic()
    # The number of finished runs at which something is killed. A kill that finds no run at work waits for the next one.
    due = sorted(draw.sample(range(points - at_once), kills))
    of_command = set(draw.sample(due, commands))
    words = [*POINT, "-m", f"seed=range(1,{points + 1})", "sweep.name=stress", f"output_root={folder / 'outputs'}"]
    words += [f"launcher={launcher}", f"launcher.at_once={at_once}", "launcher.retries=5"]
    while not outcome.codes or outcome.codes[-1] != 0:
        if len(outcome.codes) > commands + 2:
            break
        _run(folder, words, due, of_command, draw, outcome)
    outcome.seconds = round(time.monotonic() - began, 1)
    # A process that is killed while it deletes the states of a finished run leaves some.
    gc = [sys.executable, "-m", "alignlab", "runs", "gc", "--yes", f"output_root={folder / 'outputs'}"]
    subprocess.run(gc, check=True, stdout=subprocess.DEVNULL)
    return outcome


def _run(
    folder: Path, words: Sequence[str], due: list[int], of_command: set[int], draw: random.Random, outcome: Outcome
) -> None:
    """Run the command once, and kill what is due. It ends by itself, or by a kill."""
    with (folder / "stress.log").open("a") as log:
        command = subprocess.Popen(
            [sys.executable, "-m", "alignlab", "train", *words], cwd=folder, stdout=log, stderr=subprocess.STDOUT
        )
    process, samples = psutil.Process(command.pid), list[tuple[int, int]]()
    while command.poll() is None:
        with suppress(psutil.Error):
            samples.append((process.memory_info().rss, process.num_fds()))
        records = list(_records(folder))
        at_work = [(name, int(r["pid"])) for name, r in records if r.get("status") == "running" and _lives(r["pid"])]
        done = sum(record.get("status") == "done" for _, record in records)
        if due and done >= due[0] and at_work:
            name, pid = draw.choice(at_work)
            whole = due[0] in of_command
            with suppress(ProcessLookupError):
                os.kill(command.pid if whole else pid, signal.SIGKILL)
                # A run may end between the look at its record and the kill. Then it was no kill of a run.
                if whole or dict(_records(folder))[name]["status"] != "done":
                    due.pop(0)
                    outcome.kills.append(Kill(name, command.pid if whole else pid, whole))
            if whole:
                command.wait()
                while any(_lives(pid) for _, pid in at_work):
                    time.sleep(_LOOK)
                break
        time.sleep(_LOOK)
    outcome.codes.append(command.wait())
    later = samples[int(len(samples) * _WARM) :]
    if len(later) >= 8:
        quarter = len(later) // 4
        for kind, found in enumerate((outcome.memory, outcome.descriptors)):
            values = [sample[kind] for sample in later]
            found.append((statistics.median(values[:quarter]), statistics.median(values[-quarter:])))


def _records(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, record) of each run as it is on the disk now."""
    for file in (folder / "outputs" / "runs").glob("*/run.json"):
        with suppress(OSError, ValueError):
            yield file.parent.name, json.loads(file.read_text())


def _lives(pid: int) -> bool:
    with suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def faults(folder: Path, outcome: Outcome, *, points: int, kills: int) -> Iterator[str]:
    """What is not as it should be after `stress`, in words."""
    root = folder / "outputs"
    if outcome.codes[-1] != 0:
        yield f"the last command ended with {outcome.codes[-1]}"
    if len(outcome.kills) != kills:
        yield f"{len(outcome.kills)} kills instead of {kills}"
    records = dict(_records(folder))
    if (done := sum(record["status"] == "done" for record in records.values())) != points:
        yield f"{done} of {points} runs are done"
    table = json.loads((root / "sweeps" / "stress" / "sweep.json").read_text())["points"]
    if sorted(point["run"] for point in table) != sorted(records):
        yield "the sweep does not list the runs that there are"
    for name, record in records.items():
        past = record.get("attempts", [])
        if [attempt["attempt"] for attempt in past] != list(range(1, record["attempt"])):
            yield f"{name}: its attempts are {past}, and the last one is {record['attempt']}"
        # The command writes `failed` for a worker that was killed. Runs whose command was killed are `interrupted`.
        if any(attempt["status"] not in ("interrupted", "failed") for attempt in past):
            yield f"{name}: a killed attempt is neither interrupted nor failed: {past}"
    for kill in outcome.kills:
        pids = [attempt["pid"] for attempt in records[kill.run].get("attempts", [])]
        if not kill.command and kill.pid not in pids:
            yield f"{kill.run}: the process {kill.pid} was killed, and its attempts are those of {pids}"
    attempts = sum(record["attempt"] - 1 for record in records.values())
    if attempts < len([kill for kill in outcome.kills if not kill.command]):
        yield f"{attempts} attempts were interrupted, and {len(outcome.kills)} processes were killed"
    yield from (f"{file} is left" for file in root.rglob("*.tmp"))
    for name in records:
        if states := RunDir.of(root, name).states():
            yield f"{states[0]} is left of a run that is done"
    for before, after in outcome.memory:
        if after > 1.1 * before + 20e6:
            yield f"the memory of a command grew from {before / 1e6:.0f} to {after / 1e6:.0f} MB"
    for before, after in outcome.descriptors:
        if after > before + 4:
            yield f"the open descriptors of a command grew from {before:.0f} to {after:.0f}"


def main() -> int:
    """Run the big sweep. Returns 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--kills", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = given.folder.absolute()
    if folder.exists():
        parser.error(f"{folder} exists already; name another folder")
    folder.mkdir(parents=True)
    outcome = stress(folder, points=given.points, kills=given.kills, commands=2, seed=given.seed)
    found = list(faults(folder, outcome, points=given.points, kills=given.kills))
    print(json.dumps({**asdict(outcome), "kills": len(outcome.kills), "faults": found}, indent=1))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
