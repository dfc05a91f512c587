"""Proves that a run which is killed and resumed equals one that was never stopped, to the last bit.

Both runs train in processes of their own, so that the kill is a real one (SIGKILL) and nothing survives it but files.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignlab.config.plan import Plan
from alignlab.errors import AlignlabError
from alignlab.pipeline.run import run_for_policy
from alignlab.runs.directory import RunDir
from alignlab.spelling import counted
from alignlab.tracking.sinks.jsonl import STEP, read_rows

# Entries of a training state that differ between two runs of equal results: times, and where Lightning's loops stand.
_NOT_COMPARED = ("metrics", "loops", "run", "pytorch-lightning_version", "hparams_name", "hyper_parameters")
_TIMES = ("seconds", "per_second")  # metrics with these in their names are measured times
_LOOK = 0.002  # seconds between two looks at the metrics of the run that is to be killed
_TRIES = 5  # kills that may come too late, because the run had ended


@dataclass(frozen=True)
class Verdict:
    """The result of a comparison.

    killed_after: updates that the killed run had logged.
    resumed_from: updates in the training state that it resumed from.
    compared:     what was compared, in words.
    difference:   the first difference; empty if there is none.
    repeatable:   whether two runs that were not stopped are equal; known only if there is a difference.
    """

    killed_after: int
    resumed_from: int
    compared: str
    difference: str
    repeatable: bool = True


def verify_resume(
    plan: Plan, words: Sequence[str], folder: Path, *, kill_after: int | None, say: Callable[[str], None] = print
) -> Verdict:
    """Train a run whole, train it again with a kill in between, and compare the two.

    plan:       the run, with its final number of updates. The runs that it needs are trained in its output root first.
    words:      overrides with which `alignlab train` makes this run.
    folder:     an empty folder for both.
    kill_after: updates after which it is killed; None for a random number.
    Raises AlignlabError if one of the runs fails by itself, or ends before it can be killed.
    """
    for needed in (*plan.chain()[:-1], *plan.judges.values()):
        run_for_policy(needed)
    say(f"training {counted(plan.train.trainer.max_steps, 'update')} without a stop")
    whole = _whole_run(plan, words, folder / "whole")
    for _ in range(_TRIES):
        killed, seen = _killed_run(plan, words, folder / "killed", kill_after)
        if killed.record().get("status") != "done":
            break
        killed.remove()
        kill_after = None
    else:
        raise AlignlabError("the run ends before it can be killed\n  type: --updates with a larger number")
    say(f"killed after {counted(seen, 'update')} (SIGKILL); resuming")
    _train(words, folder / "killed", killed)
    resumed_from = int(killed.record().get("resumed_from") or 0)
    difference = compare(whole, killed)
    repeatable = True
    if difference:
        say("they differ; training once more without a stop, to see whether this run is repeatable at all")
        repeatable = not compare(whole, _whole_run(plan, words, folder / "again"))
    return Verdict(seen, resumed_from, _what_was_compared(whole), difference, repeatable)


def compare(one: RunDir, two: RunDir) -> str:
    """The first difference between two finished runs, in words; empty if there is none."""
    from safetensors.torch import load_file

    for file in sorted(one.policy.glob("*.safetensors")):
        other = two.policy / file.name
        if not other.is_file():
            return f"policy: {file.name} is missing in the resumed run"
        if found := first_difference(load_file(file), load_file(other), "policy"):
            return found
    if found := first_difference(_state(one), _state(two), "training state"):
        return found
    for file in sorted(one.path.glob("*.jsonl")):
        if found := _first_of_rows(read_rows(file), read_rows(two.path / file.name), file.name):
            return found
    return ""


def first_difference(one: Any, two: Any, where: str) -> str:
    """Where two nested values differ first, in words; empty if they are the same to the last bit."""
    import torch

    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return _of_tensors(one, two, where)
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        if lacking := [key for key in (*one, *two) if not (key in one and key in two)]:
            return f"{where}: {lacking[0]} is in one of them only"
        parts: list[tuple[Any, Any, Any]] = [(key, one[key], two[key]) for key in one]
    elif isinstance(one, list | tuple) and isinstance(two, list | tuple):
        if len(one) != len(two):
            return f"{where}: {len(one)} entries, resumed {len(two)}"
        parts = [(i, a, b) for i, (a, b) in enumerate(zip(one, two, strict=True))]
    else:
        return "" if repr(one) == repr(two) else f"{where}: {one!r}, resumed {two!r}"
    return next((found for key, a, b in parts if (found := first_difference(a, b, f"{where}: {key}"))), "")


def _of_tensors(one: Any, two: Any, where: str) -> str:
    import torch

    if one.dtype != two.dtype or one.shape != two.shape:
        return f"{where}: {one.dtype} {list(one.shape)}, resumed {two.dtype} {list(two.shape)}"
    flat = [tensor.detach().cpu().contiguous().reshape(-1) for tensor in (one, two)]
    size = one.element_size()
    a, b = (tensor.view(torch.uint8).reshape(-1, size) for tensor in flat)
    unlike = (a != b).any(dim=1).nonzero()
    if not len(unlike):
        return ""
    place = int(unlike[0])
    values = f"{flat[0][place].item()!r}, resumed {flat[1][place].item()!r}"
    return f"{where}: {len(unlike)} of {len(flat[0])} numbers; number {place} is {values}"


def _first_of_rows(one: Sequence[Mapping[str, Any]], two: Sequence[Mapping[str, Any]], name: str) -> str:
    for number, (a, b) in enumerate(zip(one, two, strict=False), 1):
        step = a.get(STEP, a.get("step"))
        if found := first_difference(_without_times(a), _without_times(b), f"{name}, row {number} (update {step})"):
            return found
    return "" if len(one) == len(two) else f"{name}: {len(one)} rows, resumed {len(two)}"


def _without_times(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not any(time in key for time in _TIMES)}


def _state(run: RunDir) -> dict[str, Any]:
    """The last training state, without what may differ."""
    import torch

    state: dict[str, Any] = torch.load(run.checkpoint, weights_only=True, map_location="cpu", mmap=True)
    kept = {key: value for key, value in state.items() if key not in _NOT_COMPARED}
    callbacks = {key: value for key, value in state.get("callbacks", {}).items() if key != "Recorder"}  # its time
    return {**kept, "callbacks": callbacks}


def _what_was_compared(run: RunDir) -> str:
    rows = read_rows(run.metrics)
    names = {name for row in rows for name in row}
    parts = ["policy", "training state with the optimizer's", f"{counted(len(rows), 'row')} of {len(names)} metrics"]
    return ", ".join([*parts, *(file.name for file in run.path.glob("*.jsonl") if file != run.metrics)])


def _whole_run(plan: Plan, words: Sequence[str], root: Path) -> RunDir:
    run = _prepared(plan, root)
    _train(words, root, run)
    return run


def _prepared(plan: Plan, root: Path) -> RunDir:
    """The directory of the run below another output root, in which the runs that it needs are there already."""
    for needed in (*plan.chain()[:-1], *plan.judges.values()):
        link = RunDir.of(root, needed.id).path
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(needed.run.path.resolve())
    return RunDir.of(root, plan.id)


def _started(words: Sequence[str], root: Path) -> subprocess.Popen[bytes]:
    root.mkdir(parents=True, exist_ok=True)
    with (root / "output.log").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "alignlab", "train", *words, f"output_root={root}"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )


def _train(words: Sequence[str], root: Path, run: RunDir) -> None:
    """Train until the run ends. Raises AlignlabError with the end of its output if it fails."""
    code = _started(words, root).wait()
    if code or run.record().get("status") != "done":
        raise AlignlabError(f"the run failed (exit code {code}):\n{_end_of(root / 'output.log')}")


def _killed_run(plan: Plan, words: Sequence[str], root: Path, kill_after: int | None) -> tuple[RunDir, int]:
    """(run, updates that it had logged when it was killed)."""
    run, most = _prepared(plan, root), plan.train.trainer.max_steps
    after = kill_after or random.randint(min(2, most - 1), most - 1)
    process = _started(words, root)
    try:
        size = 0
        while process.poll() is None:
            time.sleep(_LOOK)
            grown = run.metrics.stat().st_size if run.metrics.is_file() else 0
            if grown != size and _logged(run) >= after:
                break
            size = grown
    finally:
        process.kill()
        process.wait()
    if process.returncode not in (0, -9):
        raise AlignlabError(f"the run failed (exit code {process.returncode}):\n{_end_of(root / 'output.log')}")
    return run, _logged(run)


def _logged(run: RunDir) -> int:
    """The last update in the metrics of a run. Reads only the end of the file."""
    try:
        with run.metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
            text = file.read()
    except OSError:
        return 0
    return max((int(part.split(b",")[0].split(b"}")[0]) for part in _steps(text)), default=0)


def _steps(text: bytes) -> list[bytes]:
    """The texts that follow the key of the step, in complete lines."""
    whole = text[: text.rfind(b"\n") + 1]
    return whole.split(f'"{STEP}": '.encode())[1:]


def _end_of(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    return "\n".join(f"  {line}" for line in lines[-15:])
