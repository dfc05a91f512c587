"""Training states in parts: each process of a run with sharded weights saves the tensors that it holds.

A state is a file, as always, and a folder beside it. The file names the folder under `parts`, and holds everything but
the sharded tensors. The folder has a file for each process, `0.pt` for the first one.
FSDP2 cuts tensors along their first dimension, so a whole tensor is its parts behind one another, in the order of the
processes (Zhao et al. 2023, https://arxiv.org/abs/2304.11277).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignlab.errors import DamagedError
from alignlab.integrity import verify_zip

# Beginning of the names of folders with parts.
FOLDER = "parts-"

Part = Mapping[str, Any]


def divided(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(a training state without its sharded tensors, this process's parts of these on the CPU).

    state: with DTensors in `state_dict` and in the states of its optimizers. All other tensors are whole.
    """
    weights: dict[str, Tensor] = state["state_dict"]
    moments = [optimizer["state"] for optimizer in state["optimizer_states"]]
    rest = dict(state)
    rest["state_dict"] = {name: tensor for name, tensor in weights.items() if not _is_sharded(tensor)}
    rest["optimizer_states"] = [
        {**optimizer, "state": {place: _kept(own, sharded=False) for place, own in of_weights.items()}}
        for optimizer, of_weights in zip(state["optimizer_states"], moments, strict=True)
    ]
    part = {
        "weights": _kept(weights, sharded=True),
        "moments": [{place: _kept(own, sharded=True) for place, own in one.items()} for one in moments],
    }
    return rest, part


def save_part(part: Part, folder: Path, rank: int) -> None:
    """Write the parts of a process. They are on the disk when this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{rank}.pt").open("wb") as file:
        torch.save(part, file)
        file.flush()
        os.fsync(file.fileno())


def read_parts(file: Path, state: Mapping[str, Any], *, verify: bool = True) -> list[Part]:
    """The parts of all processes, mapped from their files; none if the state is whole.

    file:   of the state.
    verify: read all parts whole to verify their checksums. Otherwise only what is used later is read.
    Raises DamagedError about it if a part is damaged or gone.
    """
    about = state.get("parts") or {"folder": "", "count": 0}
    found = []
    for rank in range(about["count"]):
        part = file.parent / about["folder"] / f"{rank}.pt"
        try:
            if verify:
                verify_zip(part)
            found.append(torch.load(part, weights_only=True, map_location="cpu", mmap=True))
        except (DamagedError, OSError) as error:
            raise DamagedError(file, f"lacks a part ({error})") from error
    return found


def with_parts(state: dict[str, Any], parts: Sequence[Part]) -> dict[str, Any]:
    """The state with a list of its parts in place of each sharded tensor."""
    found = {key: value for key, value in state.items() if key != "parts"}
    found["state_dict"] = {**state["state_dict"], **_listed([part["weights"] for part in parts])}
    found["optimizer_states"] = []
    for i, optimizer in enumerate(state["optimizer_states"]):
        places = parts[0]["moments"][i]
        listed = {place: _listed([part["moments"][i][place] for part in parts]) for place in places}
        of_weights = {place: {**own, **listed.get(place, {})} for place, own in optimizer["state"].items()}
        found["optimizer_states"].append({**optimizer, "state": of_weights})
    return found


def put_together(state: dict[str, Any]) -> dict[str, Any]:
    """The state of `with_parts` with whole tensors."""
    whole = dict(state)
    whole["state_dict"] = {name: _whole(value) for name, value in state["state_dict"].items()}
    whole["optimizer_states"] = [
        {
            **optimizer,
            "state": {
                place: {key: _whole(value) for key, value in own.items()} for place, own in optimizer["state"].items()
            },
        }
        for optimizer in state["optimizer_states"]
    ]
    return whole


def part_like(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """This process's part of a tensor that is there in parts of perhaps another number of processes.

    like: a DTensor of the same shape. Of files that are mapped, only the rows that this process needs are read.
    """
    from torch.distributed.tensor import DTensor

    assert isinstance(like, DTensor)
    mesh, rows = like.device_mesh, like.shape[0]
    each = -(-rows // mesh.size())
    first = min(rows, each * mesh.get_rank())
    last = min(rows, first + each)
    found, at = [], 0
    for part in parts:
        found.append(part[max(first - at, 0) : max(last - at, 0)])
        at += len(part)
    own = torch.cat(found).to(like.device)
    return DTensor.from_local(own, mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride())


def delete_unused(states: Iterable[Path], folder: Path) -> None:
    """Delete the folders with parts that none of the states names."""
    if there := list(folder.glob(f"{FOLDER}*")):
        used = {named["folder"] for file in states if (named := _parts_named_by(file))}
        for parts in there:
            if parts.name not in used:
                shutil.rmtree(parts)


def _parts_named_by(file: Path) -> Any:
    try:
        return torch.load(file, weights_only=True, map_location="cpu", mmap=True).get("parts")
    except Exception:  # torch raises many types for a damaged file; nothing resumes from it
        return None


def _is_sharded(value: Any) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)


def _kept(values: Mapping[str, Any], *, sharded: bool) -> dict[str, Any]:
    """The values that are sharded, as this process's parts, or those that are not."""
    kept = {name: value for name, value in values.items() if _is_sharded(value) == sharded}
    return {name: value.to_local().to("cpu", copy=True) for name, value in kept.items()} if sharded else kept


def _listed(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, list[Tensor]]:
    return {name: [part[name] for part in parts] for name in parts[0]}


def _whole(value: Any) -> Any:
    return torch.cat(value) if isinstance(value, list) else value
