"""The reference: the policy before training, frozen. Log-ratios are taken against it.

There are three kinds: `copy`, `adapter_off` and `cached`.
"""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from alignlab.data.collate import to_device
from alignlab.data.fingerprint import digest, row_key
from alignlab.data.layout import Layout, Rows, collate_rows, split_by_budget
from alignlab.data.tokenize import PromptAndAnswer
from alignlab.errors import NonFiniteError, StoredReferenceError
from alignlab.models.forward import Predictions, on_device, predict
from alignlab.models.logps import answer_logps, summed
from alignlab.models.memory import out_of_memory
from alignlab.models.reference_store import Found, Keys, ReferenceStore
from alignlab.models.tolerances import tolerance_of
from alignlab.spelling import counted

log = logging.getLogger(__name__)

KINDS = ("auto", "cached", "copy", "adapter_off", "none")

# Keys of a Hugging Face config that say where a model came from or how it is used, not what it computes.
_NOT_THE_FUNCTION = ("_name_or_path", "transformers_version", "architectures", "dtype", "use_cache", "return_dict")


class Reference(Protocol):
    """Scores answers under the reference, without gradient. Log-probabilities are float32, in nats."""

    def sums(self, rows: Rows) -> torch.Tensor:
        """[R] summed log-probability of every answer."""

    def tokens(self, rows: Rows) -> torch.Tensor:
        """[R, T] log-probability of every answer token."""

    def predictions(self, rows: Rows) -> Predictions:
        """The distribution over the whole vocabulary at every answer token.

        Raises ValueError if the reference knows only the tokens of the answers.
        """


def weights_digest(model: Any) -> str:
    """Digest of the model as a function: its config, and every parameter and buffer (names, dtypes and bytes)."""
    config = {key: value for key, value in model.config.to_dict().items() if key not in _NOT_THE_FUNCTION}
    tensors = (
        part
        for name, tensor in sorted(model.state_dict().items())
        for part in (f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode(), _bytes(tensor))
    )
    return digest(chain([json.dumps(config, sort_keys=True, default=str).encode()], tensors))


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()


@dataclass(frozen=True)
class LiveReference:
    """A reference that `model` computes, in evaluation mode (no dropout).

    switch:      makes the context manager under which the model computes the reference.
    temperature: logits are divided by it.
    """

    model: torch.nn.Module
    switch: Callable[[], AbstractContextManager[Any]] = nullcontext
    temperature: float = 1.0

    def sums(self, rows: Rows) -> torch.Tensor:
        return summed(self.tokens(rows), rows.answer_mask)

    def tokens(self, rows: Rows) -> torch.Tensor:
        with torch.no_grad(), self.ready(rows.ids.device):
            return answer_logps(self.model, rows, temperature=self.temperature)

    def predictions(self, rows: Rows) -> Predictions:
        with torch.no_grad(), self.ready(rows.ids.device):
            predictions = predict(self.model, rows)

        def project(hidden: torch.Tensor) -> torch.Tensor:
            with torch.no_grad(), self.ready(rows.ids.device):
                return predictions.project(hidden)

        return replace(predictions, project=project)

    @contextmanager
    def ready(self, device: torch.device) -> Iterator[None]:
        """Move the model to `device`, and make it compute the reference inside the block."""
        training = self.model.training
        on_device(self.model, device).eval()
        try:
            with self.switch():
                yield
        finally:
            self.model.train(training)


@dataclass(frozen=True)
class CachedReference:
    """A reference that was computed before. It is looked up by the keys of the rows.

    table:    key -> summed log-probability of the answer, nats.
    by_token: key -> [T_i] log-probabilities of the answer's tokens, nats. Empty if they were not requested.
    Raises ValueError for a row that it does not have.
    """

    table: Mapping[bytes, float]
    by_token: Mapping[bytes, NDArray[np.float32]] = field(default_factory=dict)

    def sums(self, rows: Rows) -> torch.Tensor:
        self._refuse_missing(rows, self.table)
        return torch.tensor([self.table[key] for key in rows.keys], device=rows.ids.device)

    def tokens(self, rows: Rows) -> torch.Tensor:
        self._refuse_missing(rows, self.by_token)
        flat = np.concatenate([self.by_token[key] for key in rows.keys])
        return rows.scatter(torch.from_numpy(flat).to(rows.ids.device))

    def predictions(self, rows: Rows) -> Predictions:
        raise ValueError("the store keeps log-probabilities of answer tokens, not whole distributions")

    @staticmethod
    def _refuse_missing(rows: Rows, table: Mapping[bytes, Any]) -> None:
        missing = [i for i, key in enumerate(rows.keys) if key not in table]
        if missing:
            raise ValueError(f"no reference log-probabilities for rows {missing} of the batch")


def frozen_copy(model: torch.nn.Module, temperature: float = 1.0) -> LiveReference:
    """Reference `copy`: a frozen copy of the policy's weights."""
    return LiveReference(copy.deepcopy(model).requires_grad_(False).eval(), temperature=temperature)


def adapter_off(policy: Any, temperature: float = 1.0) -> LiveReference:
    """Reference `adapter_off`: the policy's own base weights, with the adapter switched off during the forward pass."""
    return LiveReference(policy, policy.disable_adapter, temperature)


@dataclass(frozen=True)
class ScoringOptions:
    """How a model scores many answers.

    rows:     maximum number of answers in a forward pass.
    tokens:   maximum number of tokens in a forward pass, prompts and answers together.
    progress: wraps an iterable in a progress bar with the given label.
    """

    layout: Layout
    rows: int
    tokens: int
    device: torch.device
    progress: Callable[[Iterable[Any], str], Iterable[Any]]


def stored_reference(
    model: torch.nn.Module,
    answers: Iterable[PromptAndAnswer],
    root: Path,
    how: ScoringOptions,
    *,
    weights: str,
    by_token: bool = False,
) -> CachedReference:
    """Reference log-probabilities (nats) of each distinct pair of prompt and answer, by key (`row_key`).

    They are read from the store below `root`. Missing entries are computed in one pass and stored on the way.
    A store belongs to one set of weights (with their dtype) and one attention implementation. An entry belongs to one
    prompt and one answer as token ids. So runs share entries whatever their objective, strength, seed or order of rows.

    weights:  digest of the weights, with their dtype.
    by_token: also return the log-probabilities of single tokens.
    A few entries that were stored before are computed again. Raises StoredReferenceError if they differ, and
    NonFiniteError if the log-probability of an answer is not finite.
    """
    attention = str(getattr(model.config, "_attn_implementation", ""))
    store = ReferenceStore(root / digest([weights.encode(), attention.encode()]))
    # Most answers occur many times as the same list objects, so duplicates are first removed by id (which is fast).
    distinct = {(id(prompt), id(answer)): (prompt, answer) for prompt, answer in answers}
    by_key = {row_key(prompt, answer): (prompt, answer) for prompt, answer in distinct.values()}
    keys = np.array(list(by_key))
    run = LiveReference(model)
    with store.lock():
        found = store.find(keys, tokens=by_token)
        unknown = np.flatnonzero(np.isnan(found.sums))
        log.info(
            "reference: %s known, %d to compute (%s)",
            counted(len(keys) - len(unknown), "answer"),
            len(unknown),
            store.folder,
        )
        _verify(run, [by_key[key] for key in keys], found, store.folder, how)
        if len(unknown):
            _fill(store, run, keys[unknown], [by_key[key] for key in keys[unknown]], how, by_token)
            found = store.find(keys, tokens=by_token)
            if np.isnan(found.sums).any():
                raise StoredReferenceError(f"{store.folder}: the entries just written there can't be read back")
    table = dict(zip(by_key, found.sums.tolist(), strict=True))
    return CachedReference(table, {key: one for key, one in zip(by_key, found.tokens, strict=True) if one is not None})


def token_logps(
    model: torch.nn.Module, answers: Sequence[PromptAndAnswer], how: ScoringOptions, temperature: float = 1.0
) -> list[NDArray[np.float32]]:
    """[T_i] log-probabilities (nats) of each answer's tokens under a model, without gradient. Nothing is stored.

    temperature: logits are divided by it.
    """
    found = dict(_compute(LiveReference(model, temperature=temperature), answers, how))
    return [found[i] for i in range(len(answers))]


# Shards that this process wrote or has already compared with the model. The points of a sweep compare them only once.
_verified: set[Path] = set()

# When a store is opened, so many of its entries are computed again.
_RECOMPUTED = 8

# A pass stores its results after so many seconds. If it is interrupted, it loses no more than that.
_STORE_EVERY = 60.0


def _fill(
    store: ReferenceStore,
    run: LiveReference,
    keys: Keys,
    answers: Sequence[PromptAndAnswer],
    how: ScoringOptions,
    by_token: bool,
) -> None:
    """Compute entries and store them. Raises NonFiniteError if the log-probability of an answer is not finite."""
    places: list[int] = []
    found: list[NDArray[np.float32]] = []
    began = time.monotonic()
    for place, tokens in _compute(run, answers, how):
        if not np.isfinite(tokens).all():
            raise NonFiniteError(
                "the reference's log-probabilities of an answer are not finite, although nothing was trained yet: "
                f"either the weights are at fault, or the answer is (token ids {answers[place][1][:20]})"
            )
        places.append(place)
        found.append(tokens)
        if time.monotonic() - began > _STORE_EVERY:
            _verified.add(store.add(keys[places], found, keep_tokens=by_token))
            places, found, began = [], [], time.monotonic()
    if places:
        _verified.add(store.add(keys[places], found, keep_tokens=by_token))


def _compute(
    run: LiveReference, answers: Sequence[PromptAndAnswer], how: ScoringOptions
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(index of an answer, log-probabilities of its tokens in nats), in the order in which they are computed."""
    # Answers to one prompt are computed together, so that they share it; prompts of similar length need little padding.
    order = sorted(range(len(answers)), key=lambda i: (len(answers[i][0]), answers[i][0], len(answers[i][1])))
    sizes = [len(answers[i][0]) + len(answers[i][1]) for i in order]
    for part in how.progress(list(split_by_budget(sizes, how.rows, how.tokens)), "reference"):
        chosen = [order[i] for i in part]
        yield from zip(chosen, _tokens(run, [answers[i] for i in chosen], how), strict=True)


def _tokens(run: LiveReference, answers: Sequence[PromptAndAnswer], how: ScoringOptions) -> list[NDArray[np.float32]]:
    """Log-probabilities (nats) of each answer's tokens. If memory runs out, the answers are computed in halves."""
    try:
        rows = to_device(collate_rows(answers, how.layout), how.device)
        tokens = run.tokens(rows).float().cpu().numpy()
    except (RuntimeError, MemoryError) as error:
        if len(answers) == 1 or not out_of_memory(error):
            raise
        half = len(answers) // 2
    else:
        return [row[: len(answer)] for row, (_, answer) in zip(tokens, answers, strict=True)]
    return _tokens(run, answers[:half], how) + _tokens(run, answers[half:], how)


def _verify(
    run: LiveReference, answers: Sequence[PromptAndAnswer], found: Found, folder: Path, how: ScoringOptions
) -> None:
    """Compare a few entries of the new shards with the model. Raises StoredReferenceError if they differ."""
    new = {file: hits for file, hits in found.shards.items() if file not in _verified and len(hits)}
    if not new:
        return
    each = -(-_RECOMPUTED // len(new))
    compared = [int(i) for hits in new.values() for i in hits[:: max(1, len(hits) // each)][:each]][:_RECOMPUTED]
    worst = 0.0
    for place, tokens in _compute(run, [answers[i] for i in compared], how):
        stored, i = found.tokens[compared[place]], compared[place]
        worst = max(worst, abs(float(tokens.sum() - found.sums[i])) / len(tokens))
        if stored is not None:
            worst = max(worst, float(np.abs(tokens - stored).mean()))
    if worst > tolerance_of(run.model).reloaded:
        raise StoredReferenceError(
            f"{folder}: the stored reference log-probabilities are not those of this model: they differ by up to "
            f"{worst:.3g} nats per token ({counted(len(compared), 'answer')} computed again); "
            "other software wrote them\n"
            f"  type: rm -r {folder}"
        )
    _verified.update(new)
