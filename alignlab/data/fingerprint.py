"""Digests of the content of a file, a folder or rows. They do not depend on the path."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from alignlab.integrity import sha256_of


def digest(parts: Iterable[bytes]) -> str:
    """First 16 hex digits of the SHA-256 over the parts, each preceded by its length."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()[:16]


def row_key(prompt: Sequence[int], answer: Sequence[int]) -> bytes:
    """32 hex digits that identify the token ids of a prompt and an answer, and where the prompt ends."""
    content = np.array([len(prompt), *prompt, *answer], dtype=np.int64).tobytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest().encode()


def path_digest(path: str | Path) -> str:
    """Digest of a file's bytes, or of the relative names and bytes of all files below a folder.

    It is not cached: the content may change while the modification time stays the same.
    """
    path = Path(path)
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    return digest(
        part
        for file in files
        for part in (
            str(file.relative_to(path)).encode(),
            bytes.fromhex(sha256_of(file)),
        )
    )
