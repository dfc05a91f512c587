"""Reference log-probabilities on disk. Runs that start from the same weights share them."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import BaseFileLock
from numpy.typing import NDArray

from alignlab.errors import DamagedError
from alignlab.integrity import DAMAGE_EXTRA, readable_as_usual, replace_file, set_aside, sha256_of
from alignlab.locks import file_lock
from alignlab.spelling import counted

log = logging.getLogger(__name__)

# Length of a shard's name in older versions, in which the name was not a checksum.
_OLD_NAME = 32

# A log-probability of a token lies between these (nats). The upper one leaves room for rounding.
_LEAST, _MOST = -1e5, 0.05
# The difference of a sum from the sum of its tokens, relative to its size.
_ROUNDING = 1e-3

Keys = NDArray[np.bytes_]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Found:
    """What a store holds for M requested entries.

    sums:   [M] summed log-probabilities, nats; NaN for missing entries.
    tokens: [M] arrays [T_i] of the tokens' log-probabilities, nats; None for those that are missing or not requested.
    shards: file -> indices of the entries that it holds.
    """

    sums: Floats
    tokens: list[Floats | None]
    shards: dict[Path, NDArray[np.intp]]


@dataclass(frozen=True)
class ReferenceStore:
    """A folder of shards, each written whole or not at all and never changed.

    A shard's name is the SHA-256 of its bytes, which is verified every time it is read. A damaged shard is renamed, and
    its entries count as missing. Entries that are not finite count as missing too, and so do those that no model gives
    (`_believable`), so that they can't make the loss of a run infinite.

    A shard holds the name of its folder (`store` uint8[N]) and M entries sorted by key: `keys` uint8[M, 32], `sums`
    float32[M] (nats, summed over the answer's tokens), `counts` int32[M] (tokens), and `tokens` float32[sum of counts]
    (nats) if they were requested.
    """

    folder: Path

    def lock(self) -> BaseFileLock:
        """A lock to hold while missing entries are computed, so that no two processes compute the same ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return file_lock(self.folder / ".lock")

    def find(self, keys: Keys, *, tokens: bool) -> Found:
        """Look entries up by key. With `tokens=True`, entries that were stored without tokens count as missing.

        The caller must hold the lock.
        """
        sums = np.full(len(keys), np.nan, dtype=np.float32)
        by_token: list[Floats | None] = [None] * len(keys)
        shards: dict[Path, NDArray[np.intp]] = {}
        for file, shard in self._shards():
            if tokens and "tokens" not in shard:
                continue
            known = shard["keys"].view("S32").ravel()
            place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            asked = known[place] == keys
            good = _believable(shard)[place]
            if wrong := int((asked & ~good).sum()):
                text = "%s holds values that no model gives (%s); these are computed again"
                log.warning(text, file, counted(wrong, "answer"), extra=DAMAGE_EXTRA)
            hits = np.flatnonzero(asked & good)
            sums[hits] = shard["sums"][place[hits]]
            shards[file] = hits
            if tokens:
                ends = np.cumsum(shard["counts"])
                for i in hits:
                    end = ends[place[i]]
                    by_token[i] = shard["tokens"][end - shard["counts"][place[i]] : end]
        return Found(sums, by_token, shards)

    def _shards(self) -> Iterator[tuple[Path, dict[str, NDArray]]]:
        """(file, content) of every undamaged shard. Damaged ones are renamed, with a warning."""
        unverified = 0
        for file in sorted(self.folder.glob("*.safetensors")):
            try:
                yield file, self._read(file)
            except DamagedError as error:
                if len(file.stem) == _OLD_NAME and file.is_file():
                    set_aside(error, "", suffix=".unverified")
                    unverified += 1
                else:
                    log.warning("%s", set_aside(error, "its entries are computed again"), extra=DAMAGE_EXTRA)
        if unverified:
            text = "%s: renamed (.unverified) and not used, because an older version wrote no checksum: %s"
            log.warning(text, self.folder, counted(unverified, "file"))

    def _read(self, file: Path) -> dict[str, NDArray]:
        """The arrays of a shard, after its checksum was verified. Raises DamagedError if the file was changed."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        if not file.is_file():
            raise DamagedError(file, "is not a file")
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != file.stem:
            raise DamagedError(file, "is damaged (its name is not the checksum of its content)")
        try:
            found = load(content)
        except SafetensorError as error:
            raise DamagedError(file, f"holds no reference log-probabilities ({error})") from error
        if not found.keys() >= {"store", "keys", "sums", "counts"} or not len(found["keys"]):
            raise DamagedError(file, "holds no reference log-probabilities")
        if (owner := found["store"].tobytes().decode(errors="replace")) != self.folder.name:
            raise DamagedError(file, f"belongs to the store {owner}")
        return found

    def add(self, keys: Keys, tokens: Sequence[Floats], *, keep_tokens: bool) -> Path:
        """Write a new shard with the log-probabilities (nats) of each entry's tokens. Returns its file."""
        from safetensors.numpy import save_file

        unique, first = np.unique(keys, return_index=True)
        chosen = [tokens[i] for i in first]
        shard: dict[str, NDArray] = {
            "store": np.frombuffer(self.folder.name.encode(), dtype=np.uint8),
            "keys": np.ascontiguousarray(unique.astype("S32")).view(np.uint8).reshape(-1, 32),
            "sums": np.array([values.sum(dtype=np.float32) for values in chosen], dtype=np.float32),
            "counts": np.array([len(values) for values in chosen], dtype=np.int32),
            **({"tokens": np.concatenate(chosen)} if keep_tokens else {}),
        }
        scratch = self.folder / f"{uuid.uuid4().hex}.tmp"
        save_file(shard, scratch)
        readable_as_usual(scratch)
        target = self.folder / f"{sha256_of(scratch)}.safetensors"
        replace_file(scratch, target)
        return target


def _believable(shard: Mapping[str, NDArray]) -> NDArray[np.bool_]:
    """[M] whether each entry of a shard can be the log-probability of an answer."""
    sums, counts = shard["sums"].astype(np.float64), shard["counts"].astype(np.float64)
    good = np.isfinite(sums) & (sums >= _LEAST * np.maximum(counts, 1)) & (sums <= _MOST * np.maximum(counts, 1))
    if "tokens" not in shard:
        return good
    tokens = shard["tokens"].astype(np.float64)
    fine = (tokens >= _LEAST) & (tokens <= _MOST)  # False for NaN
    ends = np.cumsum(shard["counts"])
    starts = ends - shard["counts"]
    number, total = (np.concatenate([[0.0], np.cumsum(of)]) for of in (~fine, np.where(fine, tokens, 0.0)))
    by_token = total[ends] - total[starts]
    same = np.abs(by_token - sums) <= _ROUNDING * np.maximum(np.abs(sums), 1.0) + 1e-6 * np.abs(total[ends])
    return good & (number[ends] == number[starts]) & same
