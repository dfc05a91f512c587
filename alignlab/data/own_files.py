"""Reads the user's own rows from a file, a local data set folder, or a hub data set with named columns."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from alignlab.checks import within
from alignlab.data.conversations import UnusableRowError, gather, prompt_key, refuse_unsupported_columns
from alignlab.data.files import FORMATS, Record, columns_of, format_of, parse_records, read_bytes, unusable_rows
from alignlab.data.fingerprint import digest, path_digest
from alignlab.data.rows import Loaded, Split
from alignlab.data.sources.base import Source, load_rows, local_files
from alignlab.errors import DataError, Problem

Row = TypeVar("Row")

# A row of a file -> a row of alignlab/data/rows.py. Raises UnusableRowError.
Parse = Callable[[Record], Any]


@dataclass(kw_only=True)
class OwnFiles(Source):
    """Base of sources that read the user's own rows.

    path:          a .jsonl, .json, .parquet or .csv file (or one of these with .gz), a folder with the structure of a
                   hub data set, or a hub name.
    eval_path:     held-out rows, in one of the same forms. If it is empty, `eval_fraction` of `path` is held out.
    eval_fraction: share of the rows of `path` that is held out. All rows of a prompt are in the same split.
    """

    path: str
    eval_path: str = ""
    eval_fraction: float = 0.1

    content_fields: ClassVar[tuple[str, ...]] = ("path", "eval_path")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from within("eval_fraction", self.eval_fraction, 0.0, 0.9, example=0.1)
        if not self.eval_path and self.eval_fraction == 0.0:
            yield Problem("eval_fraction", 0.0, "leaves no rows to evaluate on", "eval_fraction=0.1")

    def missing(self) -> Iterator[Problem]:
        for key in ("path", "eval_path"):
            path = getattr(self, key)
            if not path:
                continue
            if not Path(path).exists():
                if format_of(path) or path.startswith((".", "/", "~")):
                    yield Problem(key, path, f"no such file (looked in {Path.cwd()})", f"{key}=my_rows.jsonl")
            elif Path(path).is_file() and not format_of(path):
                yield Problem(key, path, f"must be one of: {', '.join(FORMATS)} (.gz too)", f"{key}=my_rows.jsonl")
            else:
                try:
                    self._require_usable_rows(key)
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
        """All rows of a file, checked. Raises DataError that names missing columns or the rows that can't be used."""

    @abstractmethod
    def usable(self, split: Split) -> Loaded[Any]:
        """The rows of one split that at least one kind of objective can use, and how many rows are left out."""

    def _require_usable_rows(self, key: str) -> None:
        """Raise DataError if a split that is read from the field `key` has no row that can be used."""
        splits: tuple[Split, ...] = ("train", "eval")
        if self.eval_path:
            splits = ("train",) if key == "path" else ("eval",)
        loaded = {split: self.usable(split) for split in splits}
        without = [split for split in splits if not loaded[split].rows]
        if not without:
            return
        dropped = sum((loaded[split].dropped for split in without), Counter())
        left_out = ", ".join(f"{reason}: {count}" for reason, count in dropped.items())
        text = f"{getattr(self, key)} has no row that can be used ({left_out})"
        if len(without) < len(splits):
            part = "training" if without == ["train"] else "held-out"
            text = f"the {part} part of {text}\n  type: data.eval_path=<a file with rows to evaluate on>"
        raise DataError(text)

    def split_rows(self, split: Split) -> list[Any]:
        """All rows of one split, before unusable rows are left out."""
        if self.eval_path:
            return list(self.read(self.path if split == "train" else self.eval_path))
        rows = self.read(self.path)
        held_out = _held_out(rows, self.eval_fraction, self.path)
        return [row for i, row in enumerate(rows) if (i in held_out) == (split == "eval")]


def read_columns(path: str, parse: Parse, *forms: tuple[str, ...]) -> Sequence[Any]:
    """`parse(row)` of all rows of a file, a folder or a hub data set.

    forms: sets of columns. The data must have all columns of at least one set.
    Raises DataError if columns are missing (it lists those that exist) or if rows can't be used (it lists the first).
    """
    place = Path(path)
    if place.is_file():
        raw = read_bytes(path)
        key = (hashlib.sha256(raw).digest(), format_of(path), parse, forms)
        if key not in _cache:
            rows = _parsed(parse_records(raw, path), path, parse, forms)
            while len(_cache) >= _MAX_CACHED:
                _cache.pop(next(iter(_cache)))
            _cache[key] = rows
        return _cache[key]
    if place.is_dir():
        records = [record for file in local_files(path) for record in parse_records(read_bytes(file), file)]
    else:
        records = list(load_rows(path, split="train"))
    return _parsed(records, path, parse, forms)


# The files that were parsed last, by content. The checks before a run, both splits and all points of a sweep read the
# same files.
_MAX_CACHED = 4
_cache: dict[Any, Sequence[Any]] = {}


def _parsed(records: Sequence[Record], path: str, parse: Parse, forms: Sequence[tuple[str, ...]]) -> Sequence[Any]:
    if not records:
        raise DataError(f"{path} is empty: it has no rows")
    columns = columns_of(records)
    if not any(set(form) <= set(columns) for form in forms):
        absent = [column for column in forms[0] if column not in columns]
        raise DataError(
            f"{path} has no column {', '.join(absent)}; it has: {', '.join(columns)}\n"
            f"  needed: {' -- or: '.join(', '.join(form) for form in forms)}"
        )
    rows: list[Any] = []
    faults: list[tuple[str, str]] = []
    for number, record in enumerate(records, 1):
        try:
            _, row = gather(partial(refuse_unsupported_columns, record), partial(parse, record))
            rows.append(row)
        except UnusableRowError as error:
            faults += [(f"row {number}", fault) for fault in error.faults]
    if faults:
        no_prompt = "prompt" not in columns and any(fault.startswith("prompt") for _, fault in faults)
        note = f"\n  the columns are: {', '.join(columns)}" if no_prompt else ""
        raise unusable_rows(path, faults, note)
    return rows


def _held_out(rows: Sequence[Any], share: float, path: str) -> set[int]:
    """Indices of the held-out rows: all rows of some prompts, together about `share` of all rows.

    Prompts are taken in the order of a digest of their text, so the result depends neither on the order of the rows nor
    on the objective. A prompt with more rows than are still needed is skipped. If every prompt has too many rows, the
    prompt with the fewest rows is taken. Raises DataError if all rows have the same prompt.
    """
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[prompt_key(row.prompt)].append(place)
    if len(groups) < 2:
        count = f"all {len(rows)} rows of {path} have" if len(rows) > 1 else f"the only row of {path} has"
        raise DataError(
            f"{count} the same prompt, so no part of them can be held out\n"
            "  type: data.eval_path=<a file with rows to evaluate on>"
        )
    order = [places for _, places in sorted(groups.items(), key=lambda group: digest([group[0].encode()]))]
    wanted = min(max(1, round(len(rows) * share)), len(rows) - 1)
    held_out: set[int] = set()
    for places in order:
        if len(held_out) + len(places) <= wanted:
            held_out |= set(places)
    smallest = min(order, key=len)
    return held_out or set(smallest)


def parse_number(value: Any, what: str) -> float:
    """Read a finite number, given as a number or as text. `what` names it in the error. Raises UnusableRowError."""
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not np.isfinite(number):
        raise UnusableRowError(f"{what} must be a finite number, not {value!r:.80}")
    return number
