"""Reference log-probabilities on disk: computed once, shared by every run that starts from the same weights."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

Keys = NDArray[np.bytes_]
Floats = NDArray[np.float32]


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

    def find(self, keys: Keys, *, tokens: bool) -> tuple[Floats, list[Floats | None]]:
        """[M] stored sums, NaN where a key is not there, and the same token by token where `tokens`.

        With `tokens`, entries that have none count as not there.
        """
        sums = np.full(len(keys), np.nan, dtype=np.float32)
        by_token: list[Floats | None] = [None] * len(keys)
        for file in sorted(self.folder.glob("*.safetensors")):
            shard = _read(file)
            if tokens and "tokens" not in shard:
                continue
            known = shard["keys"].view("S32").ravel()
            place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            hits = np.flatnonzero(known[place] == keys)
            sums[hits] = shard["sums"][place[hits]]
            if tokens:
                ends = np.cumsum(shard["counts"])
                for i in hits:
                    end = ends[place[i]]
                    by_token[i] = shard["tokens"][end - shard["counts"][place[i]] : end]
        return sums, by_token

    def add(self, keys: Keys, tokens: Sequence[Floats], *, keep_tokens: bool) -> None:
        """Store entries as a new shard, from the log-probabilities of their tokens."""
        from safetensors.numpy import save_file

        unique, first = np.unique(keys, return_index=True)
        chosen = [tokens[i] for i in first]
        shard: dict[str, NDArray] = {
            "keys": np.ascontiguousarray(unique.astype("S32")).view(np.uint8).reshape(-1, 32),
            "sums": np.array([values.sum(dtype=np.float32) for values in chosen], dtype=np.float32),
            "counts": np.array([len(values) for values in chosen], dtype=np.int32),
            **({"tokens": np.concatenate(chosen)} if keep_tokens else {}),
        }
        handle, name = tempfile.mkstemp(dir=self.folder, suffix=".tmp")
        os.close(handle)
        save_file(shard, name)
        os.replace(name, Path(name).with_suffix(".safetensors"))


def _read(file: Path) -> dict[str, NDArray]:
    """Arrays of a shard that are read from the file as they are looked at."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as shard:
        return {name: shard.get_tensor(name).numpy() for name in shard.keys()}  # noqa: SIM118  # not a dict
