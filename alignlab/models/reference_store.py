"""Reference log-probabilities on disk: computed once, shared by every run that starts from the same weights."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

Keys = NDArray[np.bytes_]


@dataclass(frozen=True)
class ReferenceStore:
    """A folder of shards. Each pass adds one, written whole or not at all; none is ever changed.

    keys are bytes[M], sums float32[M] (nats, summed over the answer's tokens).
    """

    folder: Path

    def lock(self) -> FileLock:
        """Held while missing entries are computed, so that two processes never compute the same ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / ".lock")

    def find(self, keys: Keys) -> NDArray[np.float32]:
        """[M] stored sums, NaN where a key is not there."""
        found = np.full(len(keys), np.nan, dtype=np.float32)
        for shard in sorted(self.folder.glob("*.npz")):
            with np.load(shard) as data:
                known, sums = data["keys"], data["sums"]
            place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            hit = known[place] == keys
            found[hit] = sums[place[hit]]
        return found

    def add(self, keys: Keys, sums: NDArray[np.float32]) -> None:
        """Store entries as a new shard, sorted by key."""
        unique, first = np.unique(keys, return_index=True)
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".tmp", delete=False) as handle:
            np.savez(handle, keys=unique, sums=sums[first])
        os.replace(handle.name, Path(handle.name).with_suffix(".npz"))
