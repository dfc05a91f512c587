"""Reading the user's own rows: a file, a local data set folder, or a hub data set with named columns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from alignlab.checks import within
from alignlab.data.fingerprint import digest, path_digest
from alignlab.data.rows import Prompt, Split
from alignlab.data.sources.base import Source, load_rows
from alignlab.errors import DataError, Problem

_BUILDER = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}

Row = TypeVar("Row")


@dataclass(kw_only=True)
class OwnFiles(Source):
    """Base of sources that read the user's own rows.

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
                yield Problem(key, path, f"no such file (looked in {Path.cwd()})", f"{key}=my_rows.jsonl")
            elif Path(path).is_file() and not _builder(path):
                yield Problem(key, path, f"must be one of: {', '.join(_BUILDER)} (.gz too)", f"{key}=my_rows.jsonl")
            elif Path(path).is_file():
                try:
                    self.read(path)
                except DataError as error:
                    yield Problem(key, path, str(error))

    def fingerprint(self) -> str:
        return digest(
            (path_digest(path) if Path(path).exists() else path).encode()
            for path in (self.path, self.eval_path)
            if path
        )

    @abstractmethod
    def read(self, path: str) -> Sequence[Any]:
        """All rows of a file, checked. DataError names the columns or the row that can't be used."""

    def split_rows(self, split: Split) -> list[Any]:
        """Rows of one split, before anything is left out."""
        if self.eval_path:
            return list(self.read(self.path if split == "train" else self.eval_path))
        rows = self.read(self.path)
        count = max(1, round(len(rows) * self.eval_fraction))
        held_out = set(np.random.default_rng(0).permutation(len(rows))[:count])
        return [row for i, row in enumerate(rows) if (i in held_out) == (split == "eval")]


def read_columns(path: str, parse: Callable[[dict[str, Any], str], Row], *forms: tuple[str, ...]) -> Sequence[Row]:
    """`parse(row, where)` of all rows; a file is read once as long as it does not change.

    forms: sets of columns, one of which must be there. Raises DataError with the columns that were found.
    """
    return _read(path, parse, forms, Path(path).stat().st_mtime_ns if Path(path).is_file() else 0)


@lru_cache(maxsize=4)
def _read(path: str, parse: Callable[..., Row], forms: tuple[tuple[str, ...], ...], changed: int) -> Sequence[Row]:
    builder = _builder(path) if Path(path).is_file() else None
    # pandas would read the answers "NA" and "None" as missing
    options = {"keep_default_na": False} if builder == "csv" else {}
    data = load_rows(builder, data_files=path, split="train", **options) if builder else load_rows(path, split="train")
    if not any(set(form) <= set(data.column_names) for form in forms):
        absent = [column for column in forms[0] if column not in data.column_names]
        raise DataError(
            f"{path} has no column {', '.join(absent)}; it has: {', '.join(data.column_names)}\n"
            f"  needed: {' -- or: '.join(', '.join(form) for form in forms)}"
        )
    return [parse(row, f"{path}, row {i + 1}") for i, row in enumerate(data)]


def parse_prompt(value: Any, where: str) -> Prompt:
    """Text, or a list of messages."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(is_message(turn) for turn in value):
        return [{"role": turn["role"], "content": turn["content"]} for turn in value]
    raise DataError(f"{where}: prompt must be text or a list of {{role, content}} messages, not {value!r:.80}")


def parse_answer(value: Any, where: str) -> str:
    """Text of an answer; of a list of messages the last turn, which must be the assistant's."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and is_message(value[-1]) and value[-1]["role"] == "assistant":
        return str(value[-1]["content"])
    raise DataError(
        f"{where}: an answer must be text or end in an assistant's {{role, content}} message, not {value!r:.80}"
    )


def parse_number(value: Any, what: str, where: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise DataError(f"{where}: {what} must be a finite number, not {value!r:.80}")
    return float(value)


def is_message(turn: Any) -> bool:
    """Whether a value is one turn of a conversation."""
    return isinstance(turn, dict) and {"role", "content"} <= turn.keys()


def _builder(path: str) -> str | None:
    suffix = Path(path.removesuffix(".gz")).suffix
    return _BUILDER.get(suffix)
