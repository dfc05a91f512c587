"""Reads rows with named columns from files, folders, or data sets of the hub."""

from __future__ import annotations

import hashlib
import logging
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

from alignlab import hub
from alignlab.checks import later_setting, within
from alignlab.data.conversations import (
    UNSUPPORTED_COLUMNS,
    UnusableRowError,
    gather,
    refuse_unsupported_columns,
)
from alignlab.data.files import Record, columns_of, read_bytes, unusable_rows
from alignlab.data.filters import drop_unusable
from alignlab.data.fingerprint import digest, path_digest
from alignlab.data.forms import NEEDED, NO_LABEL, PROMPT, PROMPT_COLUMNS, WHOLE, read_number
from alignlab.data.held_out import divided
from alignlab.data.locations import Part, missing, parts_of, paths_of, shown
from alignlab.data.rows import LeftOut, Loaded, Place, Split
from alignlab.data.sources.base import Source, local_splits
from alignlab.errors import DataError, Problem
from alignlab.spelling import correct_option

log = logging.getLogger(__name__)

Located = tuple[Place, Record]


class LeftOutError(Exception):
    """A row that says nothing about preferences, such as a tie. It is left out and counted by `reason`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(kw_only=True)
class OwnFiles(Source):
    """Base of sources that read rows with named columns.

    A data set with columns of its own is a subclass. It overrides `convert` (one row becomes one row with the columns
    of the parent class) or `arrange` (several rows become one).

    path:          a .jsonl, .json, .parquet, .csv or .tsv file (or one of these with .gz), a folder with the structure
                   of a hub data set, a hub name, or a list of these.
    eval_path:     held-out rows, in one of the same forms. If it is empty, they come from `eval_split`. If that is
                   empty too, they are `eval_fraction` of `path`.
    eval_fraction: share of the rows of `path` that is held out. All rows of a prompt are in the same split.
    split:         the split to train on, of a folder or a hub set. If `eval_split` is set, or if it is not "train", it
                   also selects the training rows of a single file by its column `split`.
    eval_split:    the split that is held out, of a folder, a hub set, or a file with a column `split`.
    subset:        the subset (configuration) of a folder or a hub set.
    revision:      branch, tag or commit of the hub sets; empty takes the default. The commit that it stands for counts
                   in the run's id.
    columns:       column that alignlab reads -> its name in this data: {prompt: instruction, chosen: good}. The name
                   may be a field of a column (`question.full_text`) or a difference of two columns
                   (`score_chosen - score_rejected`). An empty name leaves a column out: {input: ""}.
    """

    path: Any
    eval_path: Any = ""
    eval_fraction: float = 0.1
    split: str = later_setting(default="train")
    eval_split: str = later_setting(default="")
    subset: str = later_setting(default="")
    columns: dict[str, str] = later_setting(default_factory=dict)
    revision: str = later_setting(default="")

    content_fields: ClassVar[tuple[str, ...]] = ("path", "eval_path", "revision")
    # Columns that a file must have, each given as its possible names.
    needed: ClassVar[tuple[tuple[str, ...], ...]] = ()
    # All columns that may be read.
    reads: ClassVar[tuple[str, ...]] = PROMPT_COLUMNS

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        for key in ("path", "eval_path"):
            value = getattr(self, key)
            if not (isinstance(value, str) or (isinstance(value, list) and all(isinstance(p, str) for p in value))):
                text = "must be a file, a folder or a hub name, or a list of these"
                yield Problem(key, value, text, f"{key}=my_rows.jsonl")
        yield from within("eval_fraction", self.eval_fraction, 0.0, 0.9, example=0.1)
        if not self.eval_path and not self.eval_split and self.eval_fraction == 0.0:
            yield Problem("eval_fraction", 0.0, "leaves no rows to evaluate on", "eval_fraction=0.1")
        if self.eval_split and self.eval_split == self.split and not self.eval_path:
            yield Problem("eval_split", self.eval_split, "is the split that the run trains on", "eval_split=test")
        for name in self.columns:
            if self.columns[name] and name not in self.reads:
                text = f"this data has no such column; it reads {', '.join(self.reads)}"
                guess = correct_option(name, self.reads) or self.reads[0]
                source = self.columns[name]
                yield Problem("columns", f"{{{name}:{source}}}", text, f"columns={{{guess}:{source}}}")

    def missing(self) -> Iterator[Problem]:
        if self.revision and not any(map(hub.is_on_hub, self._places)):
            yield Problem("revision", self.revision, "works only with hub sets, and path names none", "revision=")
        for key in ("path", "eval_path"):
            places = paths_of(getattr(self, key))
            found = [problem for path in places for problem in missing(key, path)]
            yield from found
            if places and not found and _is_read_before_a_run(places):
                try:
                    self._require_usable_rows(key)
                except DataError as error:
                    yield Problem(key, getattr(self, key), str(error))

    @property
    def _places(self) -> list[str]:
        return [*paths_of(self.path), *paths_of(self.eval_path)]

    def unreachable(self) -> Iterator[Problem]:
        for path in self._places:
            yield from hub.problems("path", path, self.revision, "dataset")

    def fingerprint(self) -> str:
        return digest(
            (path_digest(path) if Path(path).exists() else hub.named(path, self.revision, "dataset")).encode()
            for path in self._places
        )

    @abstractmethod
    def parse(self, record: Record) -> Any:
        """A row of alignlab/data/rows.py. Raises UnusableRowError, or LeftOutError."""

    def convert(self, record: Record) -> Record:
        """A row with the columns that `parse` reads. Raises UnusableRowError, or LeftOutError."""
        return record

    def arrange(self, rows: Sequence[Located], left_out: list[LeftOut]) -> Iterable[Located]:
        """The rows to convert, from all rows of a split. Rows that are left out are added to `left_out`."""
        return rows

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
        text = f"{shown(getattr(self, key))} has no row that can be used ({left_out})"
        if len(without) < len(splits):
            part = "training" if without == ["train"] else "held-out"
            text = f"the {part} part of {text}\n  type: data.eval_path=<a file with rows to evaluate on>"
        raise DataError(text)

    def kept_rows(self, split: Split) -> Loaded[Any]:
        """The rows of one split without those that teach nothing. If there is a limit, they come from everywhere."""
        return drop_unusable(self.split_rows(split)).spread(self.limited(split))

    def split_rows(self, split: Split) -> Loaded[Any]:
        """All rows of one split, before unusable rows are left out, with counts of rows that `convert` left out.

        Raises DataError that names missing columns, or the rows that can't be used.
        """
        if self.eval_path and split == "eval":
            return self._read(self.eval_path, self.eval_split or self.split)[0]
        if self.eval_path or self._has_splits():
            return self._read(self.path, self.split if split == "train" else self.eval_split)[0]
        if not self.eval_split:
            self._tell_of_folders()
        loaded, content = self._read(self.path, self.split)
        part = partial(divided, loaded, self.eval_fraction, shown(self.path))
        both: dict[Split, Loaded[Any]] = _kept((content, "divided"), part)
        return both[split]

    def _has_splits(self) -> bool:
        """Whether `eval_split` can be read: from folders and hub sets, and from files with a column `split`."""
        if not self.eval_split:
            return False
        files = [Part(path, read_bytes(path)) for path in paths_of(self.path) if Path(path).is_file()]
        without = [part.name for part in files if "split" not in _columns_of_part(part)]
        if without:
            share = f"{self.eval_fraction:g} of its rows are held out"
            _warn(f"{without[0]} has no column split, so data.eval_split={self.eval_split} is not used: {share}")
        return not without

    def _tell_of_folders(self) -> None:
        """Warn of splits of local folders that are not read, because rows of the training split are held out."""
        for folder in paths_of(self.path):
            splits = local_splits(folder, self.subset) if Path(folder).is_dir() else []
            others = [split for split in splits if split != self.split]
            if others and self.split in splits:  # otherwise the error about the missing split names them
                share = f"{self.eval_fraction:g} of the split {self.split} is held out"
                names = f"split{'s' * (len(others) > 1)} {', '.join(others)}"
                _warn(f"{folder}: not read: the {names}; {share}\n  type: data.eval_split={others[-1]}")

    def _read(self, path: Any, split: str) -> tuple[Loaded[Any], Hashable]:
        """(all rows of files, folders or hub sets, checked; a key that is equal for equal rows)."""
        parts = [part for name in paths_of(path) for part in parts_of(name, split, self.subset, self.revision)]
        content = [hashlib.sha256(part.content).hexdigest() for part in parts if part.content is not None]
        key = (repr(self), str(path), split, *content)

        def parsed() -> Loaded[Any]:
            return self._parsed([row for part in parts for row in self._records(part, split)], shown(path))

        return _kept(key, parsed), key

    def _records(self, part: Part, split: str) -> list[Located]:
        """The rows of a part under the names that `columns` gives them. Raises DataError if columns are missing."""
        records = part.records()
        if not records:
            raise DataError(f"{part.name} is empty: it has no rows")
        columns = columns_of(records)
        self._check_columns(part.name, columns)
        rows = [(Place(part.name, number), record) for number, record in enumerate(records, 1)]
        if part.content is not None:
            rows = self._of_split(part.name, rows, split)
        return [(place, _renamed(record, self.columns)) for place, record in rows]

    def _of_split(self, name: str, rows: list[Located], split: str) -> list[Located]:
        """The rows of a file that belong to a split by their column `split`. Raises DataError if there are none.

        Without `eval_split`, these are all rows, unless `split` is set. What is not used is said.
        """
        if self.subset:
            _warn(f"{name} is a file: data.subset={self.subset} is not used")
        found = list(dict.fromkeys(str(record["split"]) for _, record in rows if "split" in record))
        chosen = bool(self.eval_split) or split != "train"
        if not found:
            if chosen and not self.eval_split:
                _warn(f"{name} has no column split: data.split={split} is not used")
            return rows
        if not chosen:
            if len(found) > 1:
                train = next((value for value in found if "train" in value), found[0])
                other = next(value for value in found if value != train)
                cure = f"data.split={train} data.eval_split={other}"
                _warn(f"{name}: the rows of all splits are used ({', '.join(found)})\n  type: {cure}")
            return rows
        if selected := [row for row in rows if row[1].get("split") == split]:
            return selected
        text = f"{name} has no rows of the split {split}; it has: {', '.join(found)}"
        raise DataError(f"{text}\n  type: data.eval_split=<one of these>")

    def _check_columns(self, name: str, columns: Sequence[str]) -> None:
        """Raise DataError if a file lacks columns that `columns` names, or that are needed."""
        absent = {own: source for own, source in self.columns.items() if source and not _columns_in(source, columns)}
        if absent:
            raise DataError(
                f"{name} has no column {', '.join(absent.values())} (data.columns); it has: {_listed(columns)}\n"
                f"  type: {self._columns_with(dict.fromkeys(absent, _any_of(columns)))}, "
                f"or {self._columns_with(dict.fromkeys(absent, _NONE))} to leave it out"
            )
        taken = self._taken(columns)
        known = {*self.columns, *(column for column in columns if column not in taken)}
        if lacking := [names[0] for names in self.needed if not known & set(names)]:
            answers = set(lacking) & {"chosen", "rejected", "completion", "completions"}
            prompt = ["prompt"] if answers and not known & {*PROMPT, *WHOLE} else []
            example = {column: _alike(column, columns) or _any_of(columns) for column in (*prompt, *lacking)}
            raise DataError(
                f"{name} has no column {', '.join(lacking)}; it has: {_listed(columns)}\n"
                f"  type: {self._columns_with(example)}{_other_source(known)}"
            )

    def _columns_with(self, more: Mapping[str, str]) -> str:
        """What to type to give further columns their names. The names that are set are repeated."""
        own = {name: as_name(source) for name, source in self.columns.items()}
        return f"'data.columns={{{', '.join(f'{name}: {source}' for name, source in (own | dict(more)).items())}}}'"

    def _taken(self, columns: Sequence[str]) -> set[str]:
        """The columns of a file that `columns` reads under another name."""
        return {column for source in self.columns.values() for column in _columns_in(source, columns)}

    def _unread(self, columns: Sequence[str]) -> list[str]:
        """The columns that are not read, of rows with the names of `columns`."""
        read = {*self.reads, *_LOOKED_AT, *self._taken(columns)}
        if any(column in columns for column in PROMPT):
            read.discard("conversation")  # it is a prompt only if there is no other
        return [column for column in columns if column not in read]

    def _parsed(self, located: Sequence[Located], path: str) -> Loaded[Any]:
        columns = columns_of(record for _, record in located)
        if unread := self._unread(columns):
            log.info("%s: columns not read: %s", path, _listed(unread))
        several = len({place.file for place, _ in located}) > 1
        rows: list[Any] = []
        left_out: list[LeftOut] = []
        faults: list[tuple[str, str]] = []
        for place, record in self.arrange(located, left_out):
            try:
                rows.append(replace(self._row(record), place=place))
            except LeftOutError as error:
                left_out.append(LeftOut(error.reason, place))
            except UnusableRowError as error:
                faults += [(str(place) if several else f"row {place.row}", fault) for fault in error.faults]
        if faults:
            no_prompt = any(fault.startswith("prompt is missing") for _, fault in faults)
            note = (
                f"\n  the columns are: {_listed(columns)}\n  type: {self._columns_with({'prompt': _any_of(columns)})}"
            )
            note = note if no_prompt else ""
            if any(fault.startswith(NO_LABEL) for _, fault in faults):
                note += self.note_on_labels(record.get("label") for _, record in located)
            raise unusable_rows(path, faults, note)
        return Loaded(rows).with_rows(rows, left_out)

    def note_on_labels(self, labels: Iterable[Any]) -> str:
        """What to type if a label of a row is not known, after a line break; empty if the source has no setting."""
        return ""

    def _row(self, record: Record) -> Any:
        record = self.convert(record)
        refuse = partial(refuse_unsupported_columns, record, PROMPT_COLUMNS, by_config=True)
        _, row = gather(refuse, partial(self.parse, record))
        return row


@lru_cache(maxsize=64)  # a file is read several times, and warned of once
def _warn(text: str) -> None:
    log.warning("%s", text)


# The files that were parsed and divided last, by content. The checks before a run, both splits and all points of a
# sweep read the same files.
_MAX_CACHED = 8
_cache: dict[Hashable, Any] = {}


def _kept(key: Hashable, make: Callable[[], Any]) -> Any:
    """What `make` returned for the key before, or returns now."""
    if key not in _cache:
        made = make()
        while len(_cache) >= _MAX_CACHED:
            _cache.pop(next(iter(_cache)))
        _cache[key] = made
    return _cache[key]


# Larger files are read when the run starts, and not before. Their stored token rows may make it needless.
_MOST_BYTES_BEFORE = 50_000_000


def _is_read_before_a_run(paths: Sequence[str]) -> bool:
    """Whether rows are checked before the model is loaded: those of local files and folders that are not too large."""
    if not all(Path(path).exists() for path in paths):
        return False
    files = [file for path in paths for file in [Path(path), *Path(path).rglob("*")] if file.is_file()]
    return sum(file.stat().st_size for file in files) <= _MOST_BYTES_BEFORE


# Columns that are always looked at: a row with a value in one of them is refused. `split` selects rows.
_LOOKED_AT = {*UNSUPPORTED_COLUMNS, "split"}


# What an empty name looks like in `data.columns`.
_NONE = '""'


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(column or "(without a name)" for column in columns)


def _other_source(columns: Collection[str]) -> str:
    """What to type to read rows with these columns by another source; empty if none reads them."""
    if "chosen" in columns and "rejected" not in columns:
        return "   or: data=completions 'data.columns={completion: chosen}'"
    found = [kind for kind, needed in NEEDED.items() if all(set(columns) & set(names) for names in needed)]
    return f"   or: data={found[0]}, which reads such rows" if found else ""


_WORDS_FOR_VALUES = ("null", "true", "false", "nan", "inf")


def as_name(source: str) -> str:
    """A name of a column as it is typed. Names with spaces, brackets or signs need quotes; so do words for values."""
    plain = re.fullmatch(r"[A-Za-z_][\w.-]*", source, re.ASCII) and source.lower() not in _WORDS_FOR_VALUES
    return source if plain else f'"{source}"'


def _any_of(columns: Iterable[str]) -> str:
    """What stands for the name of a column, with quotes if one of the names needs them."""
    return "<its name>" if all(as_name(column) == column for column in columns) else '"<its name>"'


def _alike(name: str, columns: Iterable[str]) -> str:
    """The column that differs from a name only in case and white space; empty if there is none."""
    return next((f'"{column}"' for column in columns if column.strip().lower() == name), "")


@lru_cache(maxsize=2)
def _columns_of_part(part: Part) -> list[str]:
    return columns_of(part.records())


def _renamed(record: Record, columns: Mapping[str, str]) -> Record:
    """The row under the names that `columns` gives."""
    if not columns:
        return record
    taken = {column for source in columns.values() for column in _columns_in(source, record)}
    kept = {key: value for key, value in record.items() if key not in taken and columns.get(key) != ""}
    found = {name: source for name, source in columns.items() if source and _columns_in(source, record)}
    return kept | {name: _value(record, source) for name, source in found.items()}


def _columns_in(source: str, columns: Iterable[str]) -> list[str]:
    """The columns that a name in `data.columns` needs: itself, the first step of a path, or both of a difference."""
    if source in columns:
        return [source]
    parts = [part.strip() for part in source.split(" - ")]
    if len(parts) == 2:
        return parts if set(parts) <= set(columns) else []
    first = source.split(".")[0]
    return [first] if first in columns and "." in source else []


def _value(record: Record, source: str) -> Any:
    if source in record:
        return record[source]
    parts = [part.strip() for part in source.split(" - ")]
    if len(parts) == 2:
        try:
            first, second = (read_number(record[part], part) for part in parts)
        except UnusableRowError:
            return None
        return first - second
    value: Any = record
    for step in source.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value
