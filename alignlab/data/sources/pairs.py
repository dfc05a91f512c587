"""Preference pairs from the user's own file, a local data set folder, or a hub data set in the paired form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alignlab.checks import within
from alignlab.data.audit import drop_unusable
from alignlab.data.fingerprint import digest, path_digest
from alignlab.data.rows import Loaded, Pair, Prompt, Split
from alignlab.data.sources.base import ReferenceTable, Source, load_rows
from alignlab.errors import DataError, Problem

_BUILDER = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
_COLUMNS = ("prompt", "chosen", "rejected")


@dataclass(kw_only=True)
class Pairs(Source):
    """Rows with `prompt`, `chosen` and `rejected`: strings, or lists of {role, content} messages.

    path:          a .jsonl, .json, .parquet or .csv file (.gz too), a folder as on the hub, or a hub name.
    eval_path:     held-out rows in the same form; empty holds out `eval_fraction` of `path`.
    eval_fraction: share of the rows of `path` that is held out, drawn once with a fixed seed.
    """

    path: str
    eval_path: str = ""
    eval_fraction: float = 0.1

    content_fields: ClassVar[tuple[str, ...]] = ("path", "eval_path")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from within("eval_fraction", self.eval_fraction, 0.0, 0.9, example=0.1)
        if not self.eval_path and self.eval_fraction == 0.0:
            yield Problem("eval_fraction", 0.0, "leaves nothing to evaluate on", "eval_fraction=0.1")

    def missing(self) -> Iterator[Problem]:
        for key in ("path", "eval_path"):
            path = getattr(self, key)
            if path and not Path(path).exists() and (_builder(path) or path.startswith((".", "/", "~"))):
                yield Problem(key, path, f"no such file (looked in {Path.cwd()})", f"{key}=my_pairs.jsonl")
            elif Path(path).is_file() and not _builder(path):
                yield Problem(key, path, f"must be one of: {', '.join(_BUILDER)} (.gz too)", f"{key}=my_pairs.jsonl")
            elif Path(path).is_file():
                try:
                    _rows(path)
                except DataError as error:
                    yield Problem(key, path, str(error))

    def fingerprint(self) -> str:
        return digest(
            (path_digest(path) if Path(path).exists() else path).encode()
            for path in (self.path, self.eval_path)
            if path
        )

    def pairs(self, split: Split, reference: ReferenceTable | None) -> Loaded[Pair]:
        if self.eval_path:
            rows = _rows(self.path if split == "train" else self.eval_path)
        else:
            rows = _rows(self.path)
            held_out = set(np.random.default_rng(0).permutation(len(rows))[: _count(len(rows), self.eval_fraction)])
            rows = [row for i, row in enumerate(rows) if (i in held_out) == (split == "eval")]
        loaded = drop_unusable(rows)
        return Loaded(loaded.rows[: self.limited(split)], loaded.dropped)


def _builder(path: str) -> str | None:
    suffix = Path(path.removesuffix(".gz")).suffix
    return _BUILDER.get(suffix)


def _count(rows: int, fraction: float) -> int:
    return max(1, round(rows * fraction))


def _rows(path: str) -> list[Pair]:
    """All rows of a file or hub data set; a file is read once as long as it does not change."""
    return list(_read(path, Path(path).stat().st_mtime_ns if Path(path).is_file() else 0))


@lru_cache(maxsize=4)
def _read(path: str, changed: int) -> list[Pair]:
    """All rows; DataError names the columns or the row that can't be used."""
    builder = _builder(path) if Path(path).is_file() else None
    # pandas would read the answers "NA" and "None" as missing
    options = {"keep_default_na": False} if builder == "csv" else {}
    data = load_rows(builder, data_files=path, split="train", **options) if builder else load_rows(path, split="train")
    absent = [column for column in _COLUMNS if column not in data.column_names]
    if absent:
        raise DataError(
            f"{path} has no column {', '.join(absent)}; it has: {', '.join(data.column_names)}\n"
            "  the paired form needs: prompt, chosen, rejected"
        )
    return [_pair(row, f"{path}, row {i + 1}") for i, row in enumerate(data)]


def _pair(row: dict[str, Any], where: str) -> Pair:
    return Pair(_prompt(row["prompt"], where), _answer(row["chosen"], where), _answer(row["rejected"], where))


def _prompt(value: Any, where: str) -> Prompt:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(_is_message(turn) for turn in value):
        return [{"role": turn["role"], "content": turn["content"]} for turn in value]
    raise DataError(f"{where}: prompt must be text or a list of {{role, content}} messages, not {value!r:.80}")


def _answer(value: Any, where: str) -> str:
    """Text of an answer; of a list of messages the last turn, which must be the assistant's."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and _is_message(value[-1]) and value[-1]["role"] == "assistant":
        return str(value[-1]["content"])
    raise DataError(
        f"{where}: an answer must be text or end in an assistant's {{role, content}} message, not {value!r:.80}"
    )


def _is_message(turn: Any) -> bool:
    return isinstance(turn, dict) and {"role", "content"} <= turn.keys()
