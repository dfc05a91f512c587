"""Tokenized splits on disk. All points and processes that read the same rows share them, and so does the next command.

A split is a folder `tokens/<digest>` below the output root. The digest covers the content of the data, the settings of
the source, the kind of rows and the tokenizer. The folder may be deleted at any time.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignlab.data.audit.audit import Look
from alignlab.data.audit.texts import Found, Places, Texts
from alignlab.data.audit.tokens import LengthBias, Spread, TokenCounts
from alignlab.data.filters import REASONS
from alignlab.data.rows import LeftOut, Place
from alignlab.data.token_table import TokenTable, write_rows
from alignlab.data.tokenize import Collect, LengthReport, Tokens
from alignlab.errors import DamagedError, OutputError
from alignlab.integrity import DAMAGE_EXTRA, is_whole, new_folder, seal_folder, set_aside
from alignlab.locks import file_lock

# A part of the digest. It is changed when the same settings give other rows or token ids, or when the files have
# another form.
FORMAT = "3"

_ROWS, _KEYS, _SPLIT = "rows.arrow", "keys.npz", "split.json"

log = logging.getLogger(__name__)

_THEN = "the rows are tokenized again"

# What reading raises if files that fit their checksums have other keys or types.
_OTHER_FORMS = (AttributeError, LookupError, TypeError, ValueError, OSError)


@dataclass(frozen=True)
class TokenizedSplit:
    """A split as token ids, with counts of what was left out and cut.

    look:     what the texts and the tokens of the split show.
    left_out: the rows that were left out, as far as they are known one by one.
    dropped:  reason -> number of rows that were left out.
    report:   of lengths and cuts.
    digest:   of the token ids.
    counts:   number of rows of each kind, for the objective's warnings about its data.
    flipped:  number of labels that `data.noise` has flipped.
    """

    tokens: Sequence[Tokens]
    look: Look
    left_out: Sequence[LeftOut]
    dropped: Counter[str]
    report: LengthReport
    digest: str
    counts: Mapping[str, int]
    flipped: int = 0

    @property
    def record(self) -> dict[str, Any]:
        """The entry of the split in run.json."""
        kept = {"rows": len(self.tokens), "digest": self.digest, "dropped": dict(self.dropped)}
        noise = {"flipped": self.flipped} if self.flipped else {}
        return {**kept, **noise, **self.report.summary()}


def stored_split(folder: Path, kind: type[Tokens], make: Callable[[Collect], TokenizedSplit]) -> TokenizedSplit:
    """The split that is stored in a folder. If it is not there, or has another form, it is made and stored.

    kind: class of its rows.
    make: makes the split. Its argument collects the token rows as they come.
    Raises OutputError if the folder can't be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(f"{folder}.lock"):
        if is_whole(folder, _THEN):
            try:
                return _read(folder, kind)
            except _OTHER_FORMS as error:
                damage = DamagedError(folder, f"has another form than this version writes ({error!r})")
                log.warning("%s", set_aside(damage, _THEN), extra=DAMAGE_EXTRA)
        try:
            with new_folder(folder) as scratch:
                scratch.mkdir()
                _write(make(lambda rows: _in_file(rows, kind, scratch / _ROWS)), scratch)
                seal_folder(scratch)
        except OSError as error:
            raise OutputError(f"{folder} can't be written: {error}") from error
    return _read(folder, kind)


def _in_file(rows: Iterable[Tokens], kind: type[Tokens], file: Path) -> TokenTable[Tokens]:
    write_rows(rows, kind, file)
    return TokenTable(file, kind)


def _write(split: TokenizedSplit, folder: Path) -> None:
    texts, tokens = split.look.texts, split.look.tokens
    assert texts is not None
    assert tokens is not None
    places = Places.of([row.place for row in split.left_out])
    np.savez(folder / _KEYS, prompts=texts.prompts, rows=texts.rows, places=texts.places.rows, files=texts.places.files)
    content = {
        "texts": {
            "found": {reason.key: _found_record(found) for reason, found in texts.found.items()},
            "left_out": {reason: _found_record(found) for reason, found in texts.left_out.items()},
            "good": texts.good,
            "beyond": texts.beyond,
            "names": texts.places.names,
        },
        "tokens": asdict(tokens),
        "left_out": {
            "reasons": [row.reason for row in split.left_out],
            "names": places.names,
            "files": places.files.tolist(),
            "rows": places.rows.tolist(),
        },
        "dropped": split.dropped,
        "report": vars(split.report),
        "digest": split.digest,
        "counts": dict(split.counts),
        "flipped": split.flipped,
    }
    (folder / _SPLIT).write_text(json.dumps(content), encoding="utf-8")


def _read(folder: Path, kind: type[Tokens]) -> TokenizedSplit:
    content = json.loads((folder / _SPLIT).read_text(encoding="utf-8"))
    texts, left_out = content["texts"], content["left_out"]
    with np.load(folder / _KEYS, allow_pickle=False) as keys:
        look = Look(
            Texts(
                keys["prompts"],
                keys["rows"],
                {REASONS[key]: _found(record) for key, record in texts["found"].items()},
                {reason: _found(record) for reason, record in texts["left_out"].items()},
                texts["good"],
                Places(texts["names"], keys["files"], keys["places"]),
                texts["beyond"],
            ),
            _token_counts(content["tokens"]),
        )
    places = Places(left_out["names"], np.array(left_out["files"], np.int32), np.array(left_out["rows"], np.int64))
    return TokenizedSplit(
        TokenTable(folder / _ROWS, kind),
        look,
        [LeftOut(reason, place) for reason, place in zip(left_out["reasons"], places, strict=True)],
        Counter(content["dropped"]),
        _length_report(content["report"]),
        content["digest"],
        content["counts"],
        content["flipped"],
    )


def _found_record(found: Found) -> dict[str, Any]:
    return {"count": found.count, "places": [[place.file, place.row] for place in found.places]}


def _found(record: Mapping[str, Any]) -> Found:
    return Found(record["count"], tuple(Place(file, row) for file, row in record["places"]))


def _token_counts(record: Mapping[str, Any]) -> TokenCounts:
    parts = {name: Spread(**spread) for name, spread in record["parts"].items()}
    bias = record["bias"] and LengthBias(**record["bias"])
    return TokenCounts(**{**record, "parts": parts, "bias": bias})


def _length_report(record: Mapping[str, Any]) -> LengthReport:
    counted: dict[str, Any] = {name: Counter(v) if isinstance(v, dict) else v for name, v in record.items()}
    return LengthReport(**counted)
