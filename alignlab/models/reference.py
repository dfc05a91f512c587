"""The reference policy, always by name: `copy`, `adapter_off` or `cached`. It is the policy before any training."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alignlab.data.collate import PairBatch, Rows, collate_rows, to_device
from alignlab.data.fingerprint import digest
from alignlab.data.tokenize import PairTokens
from alignlab.models.logps import answer_logps, summed
from alignlab.models.reference_store import ReferenceStore, row_key

log = logging.getLogger(__name__)

KINDS = ("cached", "copy", "adapter_off")

# Keys of a Hugging Face config that say where a model came from or how it is used, not what it computes.
_NOT_THE_FUNCTION = ("_name_or_path", "transformers_version", "architectures", "dtype", "use_cache", "return_dict")

Reference = Callable[[PairBatch], Tensor]


def weights_digest(model: Any) -> str:
    """Digest of the model as a function: its config, and every parameter and buffer (names, dtypes and bytes)."""
    config = {key: value for key, value in model.config.to_dict().items() if key not in _NOT_THE_FUNCTION}
    tensors = (
        part
        for name, tensor in sorted(model.state_dict().items())
        for part in (f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode(), _bytes(tensor))
    )
    return digest(chain([json.dumps(config, sort_keys=True, default=str).encode()], tensors))


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()


def frozen_copy(model: nn.Module) -> Reference:
    """Reference `copy`: a second set of weights beside the policy's."""
    twin = copy.deepcopy(model).requires_grad_(False).eval()

    def reference(batch: PairBatch) -> Tensor:
        twin.to(batch.index.device)
        return _score(twin, batch.rows)

    return reference


def adapter_off(policy: Any) -> Reference:
    """Reference `adapter_off`: the policy's own base weights, its adapter switched off for the pass."""

    def reference(batch: PairBatch) -> Tensor:
        with policy.disable_adapter():
            return _score(policy, batch.rows)

    return reference


def cached(sums: NDArray[np.float32]) -> Reference:
    """Reference `cached`: looked up by the rows' places. [N, 2] from `reference_sums`, chosen and rejected."""

    def reference(batch: PairBatch) -> Tensor:
        found = torch.from_numpy(sums[batch.index.cpu().numpy()])  # [B, 2]
        if found.isnan().any():
            missing = batch.index.cpu()[found.isnan().any(dim=1)].tolist()
            raise ValueError(f"no reference log-probabilities for rows {missing}")
        return found.T.reshape(-1).to(batch.index.device)

    return reference


def reference_sums(
    model: nn.Module,
    pairs: Sequence[PairTokens],
    root: Path,
    *,
    weights: str,
    micro_batch_size: int,
    device: torch.device,
    progress: Callable[[Iterable[Any], str], Iterable[Any]],
) -> NDArray[np.float32]:
    """[N, 2] summed reference log-probabilities by `index` of each pair, NaN at places that no pair has.

    Read from the store below `root`; what it lacks is computed in one pass and added. A store belongs to one set of
    weights (with their dtype) and one attention implementation, an entry to one prompt and answer as token ids: so runs
    share entries whatever their objective, strength, seed or order of rows.
    """
    attention = str(getattr(model.config, "_attn_implementation", ""))
    store = ReferenceStore(root / digest([weights.encode(), attention.encode()]))
    answers = [(pair.prompt, answer) for pair in pairs for answer in (pair.chosen, pair.rejected)]
    keys = np.array([row_key(prompt, answer) for prompt, answer in answers])
    with store.lock():
        sums = store.find(keys)
        unknown = np.flatnonzero(np.isnan(sums))
        log.info(
            "reference: %d answers known, %d to compute (%s)", len(keys) - len(unknown), len(unknown), store.folder
        )
        if len(unknown):
            sums[unknown] = _compute(model, [answers[i] for i in unknown], micro_batch_size, device, progress)
            store.add(keys[unknown], sums[unknown])
    out = np.full((max(pair.index for pair in pairs) + 1, 2), np.nan, dtype=np.float32)
    out[[pair.index for pair in pairs]] = sums.reshape(-1, 2)
    return out


def _compute(
    model: nn.Module,
    answers: Sequence[tuple[list[int], list[int]]],
    micro_batch_size: int,
    device: torch.device,
    progress: Callable[[Iterable[Any], str], Iterable[Any]],
) -> NDArray[np.float32]:
    """[M] summed log-probability of each (prompt, answer)."""
    sums = np.empty(len(answers), dtype=np.float32)
    # Rows of like length together waste little work on padding; every row keeps its place in the result.
    order = sorted(range(len(answers)), key=lambda i: len(answers[i][0]) + len(answers[i][1]))
    model.to(device)
    size = 2 * micro_batch_size  # as many rows as a micro-batch of pairs has
    for start in progress(range(0, len(order), size), "reference"):
        places = order[start : start + size]
        rows = collate_rows([answers[i][0] for i in places], [answers[i][1] for i in places])
        sums[places] = _score(model, to_device(rows, device)).cpu().numpy()
    return sums


@torch.no_grad()
def _score(model: nn.Module, rows: Rows) -> Tensor:
    """[R] summed log-probability of each row, nats, float32; dropout off."""
    training = model.training
    model.eval()
    total = summed(answer_logps(model, rows), rows.answer_mask)
    model.train(training)
    return total
