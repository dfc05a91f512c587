"""The reference policy, always by name: `copy`, `adapter_off` or `cached`. It is the policy as it was before training."""

from __future__ import annotations

import copy
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor, nn

from alignlab.data.collate import PairBatch, collate_pairs, to_device
from alignlab.data.fingerprint import digest
from alignlab.data.tokenize import PairTokens
from alignlab.models.logps import answer_logps, summed

log = logging.getLogger(__name__)

KINDS = ("cached", "copy", "adapter_off")

Reference = Callable[[PairBatch], Tensor]


def weights_digest(model: nn.Module) -> str:
    """Digest of every parameter and buffer: names, dtypes and bytes."""
    return digest(
        part
        for name, tensor in sorted(model.state_dict().items())
        for part in (f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode(), _bytes(tensor))
    )


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()


def frozen_copy(model: nn.Module) -> Reference:
    """Reference `copy`: a second set of weights beside the policy's."""
    twin = copy.deepcopy(model).requires_grad_(False).eval()

    def reference(batch: PairBatch) -> Tensor:
        twin.to(batch.index.device)
        return _score(twin, batch)

    return reference


def adapter_off(policy: Any) -> Reference:
    """Reference `adapter_off`: the policy's own base weights, its adapter switched off for the pass."""

    def reference(batch: PairBatch) -> Tensor:
        with policy.disable_adapter():
            return _score(policy, batch)

    return reference


def cached(table: NDArray[np.float32]) -> Reference:
    """Reference `cached`: rows of a table that `reference_table` made. [N, 2], chosen and rejected."""

    def reference(batch: PairBatch) -> Tensor:
        rows = torch.from_numpy(table[batch.index.cpu().numpy()])  # [B, 2]
        return rows.T.reshape(-1).to(batch.index.device)

    return reference


def reference_table(
    model: nn.Module,
    pairs: Sequence[PairTokens],
    folder: Path,
    *,
    weights: str,
    micro_batch_size: int,
    device: torch.device,
    progress: Callable[[Iterable[Any], str], Iterable[Any]],
) -> NDArray[np.float32]:
    """[N, 2] summed reference log-probabilities of N pairs, read from `folder` or computed once and stored there.

    The file's name is the digest of everything the numbers depend on: token ids of every row in order, the weights with
    their dtype, and the attention implementation. Runs that share those share the file, whatever else differs.
    """
    attention = getattr(model.config, "_attn_implementation", "")
    key = digest([weights.encode(), str(attention).encode(), *map(_row_bytes, pairs)])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{key}.npy"
    with FileLock(file.with_suffix(".lock")):
        if file.is_file():
            log.info("reference: read from %s (%d pairs)", file, len(pairs))
        else:
            log.info("reference: one pass over %d pairs", len(pairs))
            _save(file, _compute(model, pairs, micro_batch_size, device, progress))
    return np.load(file, mmap_mode="r")


def _compute(
    model: nn.Module,
    pairs: Sequence[PairTokens],
    micro_batch_size: int,
    device: torch.device,
    progress: Callable[[Iterable[Any], str], Iterable[Any]],
) -> NDArray[np.float32]:
    table = np.empty((len(pairs), 2), dtype=np.float32)
    # Rows of like length together waste no work on padding; every row keeps its place in the table.
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].prompt) + len(pairs[i].chosen))
    model.to(device)
    for start in progress(range(0, len(order), micro_batch_size), "reference"):
        places = order[start : start + micro_batch_size]
        batch = to_device(collate_pairs([pairs[i] for i in places]), device)
        table[places] = _score(model, batch).view(2, -1).T.cpu().numpy()
    return table


@torch.no_grad()
def _score(model: nn.Module, batch: PairBatch) -> Tensor:
    """[2B] summed log-probability of each row, nats, float32; dropout off."""
    training = model.training
    model.eval()
    total = summed(answer_logps(model, batch.rows), batch.rows.answer_mask)
    model.train(training)
    return total


def _row_bytes(pair: PairTokens) -> bytes:
    parts = (pair.prompt, pair.chosen, pair.rejected)
    return np.array([*map(len, parts), *pair.prompt, *pair.chosen, *pair.rejected], dtype=np.int64).tobytes()


def _save(file: Path, table: NDArray[np.float32]) -> None:
    """Write beside the target and rename: a reader sees the whole table or none."""
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp", delete=False) as handle:
        np.save(handle, table)
    os.replace(handle.name, file)
