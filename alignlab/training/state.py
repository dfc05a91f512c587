"""Training states on disk, verified when they are read: a run goes on with the numbers that it had, or starts anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from alignlab.errors import DamagedError, OutputError
from alignlab.integrity import set_aside, sha256_of, verify_zip
from alignlab.ledger.run_dir import RunDir

STARTS_ANEW = "the run starts anew"

# What a state holds: of a run that trains alone (Lightning's checkpoint), and of one in a stack.
_ALONE = (
    "global_step", "state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "seen", "objective_state",
)  # fmt: skip
_STACKED = ("step", "weights", "moments", "tokens", "objective_state")


def about(run: RunDir) -> dict[str, Any]:
    """What a state says of the run that it belongs to: which one it is, and what it had measured so far."""
    size = run.metrics.stat().st_size if run.metrics.is_file() else 0
    return {"run": run.id, "metrics": {"size": size, "sha256": sha256_of(run.metrics, size) if size else ""}}


def read_state(file: Path, run: RunDir) -> dict[str, Any]:
    """The training state of a run, on the CPU, its tensors still in the file.

    Raises DamagedError where it can't be gone on from: its checksums are wrong, it is no state or that of another run,
    or what the run had measured until then is no longer there. Raises OSError where it can't be read at all.
    """
    verify_zip(file)
    try:
        state = torch.load(file, weights_only=True, map_location="cpu", mmap=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the archive is whole, and no state is in it: torch raises many types
        raise DamagedError(file, f"holds no training state ({type(error).__name__})") from error
    needed = _STACKED if file == run.stacked_checkpoint else _ALONE
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
            raise DamagedError(rows, f"is not what it was when {file.name} was saved")
    return state


def refuse_other_model(file: Path, state: Mapping[str, Any], trained: Mapping[str, torch.Tensor]) -> None:
    """Raise DamagedError where a state lacks some of the tensors that are trained, or has them in another shape."""
    unlike = [name for name, tensor in trained.items() if name not in state or state[name].shape != tensor.shape]
    if unlike:
        raise DamagedError(file, f"is the training state of another model ({len(unlike)} tensors differ: {unlike[0]})")


def updates_of(state: dict[str, Any]) -> int:
    """Updates that a state was saved after."""
    return int(state["global_step"] if "global_step" in state else state["step"])


def updates_in(run: RunDir, file: Path) -> tuple[int, str]:
    """Updates that a training state of a run holds, and nothing; or 0, where there is no state.

    A state that can't be gone on from is set aside: 0, and what was wrong with it, for `log_damage`. Raises
    OutputError where the file can't be read at all, which may pass.
    """
    if not file.exists():
        return 0, ""
    try:
        return updates_of(read_state(file, run)), ""
    except DamagedError as error:
        return 0, set_aside(error, STARTS_ANEW)
    except OSError as error:
        raise OutputError(f"{file} can't be read: {error}") from error
