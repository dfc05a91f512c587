"""Training states on disk: the last one of a run, and the one before it.

They are verified when they are read. If the last state is damaged, the run resumes from the one before it. If both are,
it starts anew.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from alignlab.errors import DamagedError, OutputError
from alignlab.integrity import new_file, replace_and_keep, set_aside, sha256_of, verify_zip
from alignlab.models.parts import delete_unused, put_together, read_parts, with_parts
from alignlab.runs.directory import RunDir, earlier_state

STARTS_ANEW = "the run starts anew"

# Keys of a training state: of a run that trains on its own (Lightning's checkpoint), and of a vectorized run.
_LIGHTNING_KEYS = (
    "global_step", "state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "seen", "objective_state",
)  # fmt: skip
_VECTORIZED_KEYS = ("step", "weights", "moments", "tokens", "objective_state")


def about(run: RunDir) -> dict[str, Any]:
    """Entries of a state that identify its run: the run's id, and a checksum of its metrics so far."""
    size = run.metrics.stat().st_size if run.metrics.is_file() else 0
    return {"run": run.id, "metrics": {"size": size, "sha256": sha256_of(run.metrics, size) if size else ""}}


def replace_state(scratch: Path, file: Path) -> None:
    """Make `scratch` the last training state. The state that it replaces becomes the earlier one."""
    replace_and_keep(scratch, file, earlier_state(file))


def read_state(file: Path, run: RunDir) -> dict[str, Any]:
    """The training state of a run, on the CPU, with its tensors mapped from the file.

    A state in parts (alignlab/models/parts.py) has a list of parts in place of each sharded tensor.
    Raises DamagedError if the run can't resume from it: its checksums are wrong, it is not the state of this run, or
    the metrics that the run had logged by then have changed. Raises OSError if the file can't be read at all.
    """
    verify_zip(file)
    try:
        state = torch.load(file, weights_only=True, map_location="cpu", mmap=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the archive is whole but holds no state: torch raises many types
        raise DamagedError(file, f"holds no training state ({type(error).__name__})") from error
    vectorized = file in (run.stacked_checkpoint, earlier_state(run.stacked_checkpoint))
    needed = _VECTORIZED_KEYS if vectorized else _LIGHTNING_KEYS
    lacking = [key for key in needed if key not in state] if isinstance(state, dict) else list(needed)
    if lacking:
        raise DamagedError(file, f"holds no training state (it lacks {', '.join(lacking)})")
    owner, measured = state.get("run", run.id), state.get("metrics")  # older versions wrote neither
    if owner != run.id:
        raise DamagedError(file, f"is the training state of {owner}")
    if measured and measured["size"]:
        rows = run.metrics
        same = rows.is_file() and rows.stat().st_size >= measured["size"]
        if not same or sha256_of(rows, measured["size"]) != measured["sha256"]:
            raise DamagedError(rows, f"has changed since {file.name} was saved")
    parts = read_parts(file, state)
    return with_parts(state, parts) if parts else state


def make_whole(run: RunDir) -> None:
    """Write the last training state anew with whole tensors, if it is in parts: a single process can't read parts."""
    state = torch.load(run.checkpoint, weights_only=True, map_location="cpu", mmap=True)
    if "parts" in state:
        with new_file(run.checkpoint) as scratch:
            torch.save(put_together(read_state(run.checkpoint, run)), scratch)
        delete_unused_parts(run)


def delete_unused_parts(run: RunDir) -> None:
    """Delete the parts that no training state of a run names."""
    delete_unused((run.checkpoint, earlier_state(run.checkpoint)), run.checkpoint.parent)


def refuse_other_model(file: Path, state: Mapping[str, Any], trained: Mapping[str, torch.Tensor]) -> None:
    """Raise DamagedError if a state lacks trained tensors, or has them in another shape.

    state: name -> tensor, or a list of the parts of one, cut along its first dimension.
    """
    shapes = {name: _shape(value) for name, value in state.items()}
    unlike = [name for name, tensor in trained.items() if shapes.get(name) != tensor.shape]
    if unlike:
        raise DamagedError(
            file, f"is the training state of another model (other tensors: {len(unlike)}, the first is {unlike[0]})"
        )


def _shape(value: Any) -> torch.Size:
    if isinstance(value, list):
        return torch.Size((sum(len(part) for part in value), *value[0].shape[1:]))
    return value.shape


def updates_of(state: dict[str, Any]) -> int:
    """Number of updates after which a state was saved."""
    return int(state["global_step"] if "global_step" in state else state["step"])


def updates_in(run: RunDir, file: Path) -> tuple[int, str]:
    """(updates in a training state of a run, message); (0, "") if there is no state.

    A damaged state is renamed, and the state before it takes its place. If there is none, or if it is damaged as well,
    the result is 0. The message, for `log_damage`, says so.
    Raises OutputError if the file can't be read at all, which may be temporary.
    """
    if not file.exists():
        return 0, ""
    earlier = earlier_state(file)
    try:
        try:
            return updates_of(read_state(file, run)), ""
        except DamagedError as error:
            damage = error
        if not earlier.exists():
            return 0, set_aside(damage, STARTS_ANEW)
        try:
            updates = updates_of(read_state(earlier, run))
        except DamagedError as error:
            return 0, f"{damage}; {set_aside(error, STARTS_ANEW)}"
    except OSError as error:
        raise OutputError(f"{error.filename or file} can't be read: {error}") from error
    resumes = f"the run resumes from the state before it, after {updates} updates"
    # Metrics that do not fit the last state fit this one, so they stay.
    said = set_aside(damage, resumes) if damage.file == file else f"{damage}, and {resumes}"
    os.replace(earlier, file)
    return updates, said
