"""Reference log-probabilities on disk: computed once, shared by every run that starts from the same weights."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from alignlab.errors import StoredReferenceError

Keys = NDArray[np.bytes_]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Found:
    """What a store has of M entries.

    sums:   [M] NaN where it has none.
    tokens: [M] the same token by token, or None.
    shards: which entries each file gave.
    """

    sums: Floats
    tokens: list[Floats | None]
    shards: dict[Path, NDArray[np.intp]]


@dataclass(frozen=True)
class ReferenceStore:
    """A folder of shards, each written whole or not at all and never changed; they are read by memory map.

    A shard holds M entries sorted by key: `keys` uint8[M, 32], `sums` float32[M] (nats, summed over the answer's
    tokens), `counts` int32[M] (tokens), and where they were asked for `tokens` float32[sum of counts].
    """

    folder: Path

    def lock(self) -> FileLock:
        """Held while missing entries are computed, so that two processes never compute the same ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / ".lock")

    def find(self, keys: Keys, *, tokens: bool) -> Found:
        """What is stored of entries. With `tokens`, those that are stored without count as not there.

        Raises StoredReferenceError for a shard that can't be read.
        """
        sums = np.full(len(keys), np.nan, dtype=np.float32)
        by_token: list[Floats | None] = [None] * len(keys)
        shards: dict[Path, NDArray[np.intp]] = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            shard = _read(file)
            if tokens and "tokens" not in shard:
                continue
            known = shard["keys"].view("S32").ravel()
            place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            hits = np.flatnonzero(known[place] == keys)
            sums[hits] = shard["sums"][place[hits]]
            shards[file] = hits
            if tokens:
                ends = np.cumsum(shard["counts"])
                for i in hits:
                    end = ends[place[i]]
                    by_token[i] = shard["tokens"][end - shard["counts"][place[i]] : end]
        return Found(sums, by_token, shards)

    def add(self, keys: Keys, tokens: Sequence[Floats], *, keep_tokens: bool) -> Path:
        """Store entries as a new shard, from the log-probabilities of their tokens; returns its file."""
        from safetensors.numpy import save_file

        unique, first = np.unique(keys, return_index=True)
        chosen = [tokens[i] for i in first]
        shard: dict[str, NDArray] = {
            "keys": np.ascontiguousarray(unique.astype("S32")).view(np.uint8).reshape(-1, 32),
            "sums": np.array([values.sum(dtype=np.float32) for values in chosen], dtype=np.float32),
            "counts": np.array([len(values) for values in chosen], dtype=np.int32),
            **({"tokens": np.concatenate(chosen)} if keep_tokens else {}),
        }
        target = self.folder / f"{uuid.uuid4().hex}.safetensors"
        scratch = target.with_suffix(".tmp")
        save_file(shard, scratch)
        with scratch.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(scratch, target)
        return target


def _read(file: Path) -> dict[str, NDArray]:
    """Arrays of a shard that are read from the file as they are looked at."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as shard:
            return {name: shard.get_tensor(name).numpy() for name in shard.keys()}  # noqa: SIM118  # not a dict
    except SafetensorError as error:
        raise StoredReferenceError(f"{file} can't be read: {error}\n  type: rm {file}") from error
