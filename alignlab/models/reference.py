"""The reference policy, always by name: `copy`, `adapter_off` or `cached`. It is the policy before any training."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alignlab.data.collate import Rows, collate_rows, to_device
from alignlab.data.fingerprint import digest, row_key
from alignlab.data.tokenize import PromptAndAnswer
from alignlab.models.logps import answer_logits, answer_logps, summed
from alignlab.models.reference_store import ReferenceStore

log = logging.getLogger(__name__)

KINDS = ("auto", "cached", "copy", "adapter_off", "none")

# Keys of a Hugging Face config that say where a model came from or how it is used, not what it computes.
_NOT_THE_FUNCTION = ("_name_or_path", "transformers_version", "architectures", "dtype", "use_cache", "return_dict")


class Reference(Protocol):
    """Scores answers under the reference policy, without gradient; nats, float32."""

    def sums(self, rows: Rows) -> Tensor:
        """[R] summed log-probability of every answer."""

    def tokens(self, rows: Rows) -> Tensor:
        """[R, T] log-probability of every answer token."""

    def logits(self, rows: Rows) -> Tensor:
        """[R, T, V] logits that predict the answer tokens."""


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


@dataclass(frozen=True)
class Live:
    """A reference that runs: `model` under the context that `switch` makes, dropout off."""

    model: nn.Module
    switch: Callable[[], AbstractContextManager[Any]] = nullcontext

    def sums(self, rows: Rows) -> Tensor:
        return summed(self.tokens(rows), rows.answer_mask)

    @torch.no_grad()
    def tokens(self, rows: Rows) -> Tensor:
        with self._ready(rows):
            return answer_logps(self.model, rows)

    @torch.no_grad()
    def logits(self, rows: Rows) -> Tensor:
        with self._ready(rows):
            return answer_logits(self.model, rows)

    @contextmanager
    def _ready(self, rows: Rows) -> Iterator[None]:
        training = self.model.training
        self.model.to(rows.ids.device).eval()
        try:
            with self.switch():
                yield
        finally:
            self.model.train(training)


@dataclass(frozen=True)
class Cached:
    """A reference that is looked up: [R] sums by the rows' keys (`reference_sums`)."""

    table: Mapping[bytes, float]

    def sums(self, rows: Rows) -> Tensor:
        missing = [i for i, key in enumerate(rows.keys) if key not in self.table]
        if missing:
            raise ValueError(f"no reference log-probabilities for rows {missing} of the batch")
        return torch.tensor([self.table[key] for key in rows.keys], device=rows.ids.device)

    def tokens(self, rows: Rows) -> Tensor:
        raise ValueError("the store keeps sums of log-probabilities, not single tokens")

    def logits(self, rows: Rows) -> Tensor:
        raise ValueError("the store keeps sums of log-probabilities, not logits")


def frozen_copy(model: nn.Module) -> Reference:
    """Reference `copy`: a second set of weights beside the policy's."""
    return Live(copy.deepcopy(model).requires_grad_(False).eval())


def adapter_off(policy: Any) -> Reference:
    """Reference `adapter_off`: the policy's own base weights, its adapter switched off for the pass."""
    return Live(policy, policy.disable_adapter)


def reference_sums(
    model: nn.Module,
    answers: Iterable[PromptAndAnswer],
    root: Path,
    *,
    weights: str,
    micro_batch_size: int,
    device: torch.device,
    progress: Callable[[Iterable[Any], str], Iterable[Any]],
) -> dict[bytes, float]:
    """Summed reference log-probability of each different prompt and answer, by key (row_key).

    Read from the store below `root`; what it lacks is computed in one pass and added. A store belongs to one set of
    weights (with their dtype) and one attention implementation, an entry to one prompt and answer as token ids: so runs
    share entries whatever their objective, strength, seed or order of rows.
    """
    attention = str(getattr(model.config, "_attn_implementation", ""))
    store = ReferenceStore(root / digest([weights.encode(), attention.encode()]))
    by_key = {row_key(prompt, answer): (prompt, answer) for prompt, answer in answers}
    keys = np.array(list(by_key))
    with store.lock():
        sums = store.find(keys)
        unknown = np.flatnonzero(np.isnan(sums))
        log.info(
            "reference: %d answers known, %d to compute (%s)", len(keys) - len(unknown), len(unknown), store.folder
        )
        if len(unknown):
            wanted = [by_key[keys[i]] for i in unknown]
            sums[unknown] = _compute(Live(model), wanted, micro_batch_size, device, progress)
            store.add(keys[unknown], sums[unknown])
    return dict(zip(by_key, sums.tolist(), strict=True))


def _compute(
    model: Live,
    answers: Sequence[PromptAndAnswer],
    micro_batch_size: int,
    device: torch.device,
    progress: Callable[[Iterable[Any], str], Iterable[Any]],
) -> NDArray[np.float32]:
    """[M] summed log-probability of each (prompt, answer)."""
    sums = np.empty(len(answers), dtype=np.float32)
    # Rows of like length together waste little work on padding; every row keeps its place in the result.
    order = sorted(range(len(answers)), key=lambda i: len(answers[i][0]) + len(answers[i][1]))
    size = 2 * micro_batch_size  # as many rows as a micro-batch of pairs has
    for start in progress(range(0, len(order), size), "reference"):
        places = order[start : start + size]
        rows = to_device(collate_rows([answers[i] for i in places]), device)
        sums[places] = model.sums(rows).cpu().numpy()
    return sums
