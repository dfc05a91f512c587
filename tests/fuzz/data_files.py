"""Files of rows that are damaged, of another format, or not files at all. Each case has a name that makes it again."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROWS = [{"prompt": f"say {i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(24)]
GOOD = "".join(f"{json.dumps(row)}\n" for row in ROWS).encode()

# Values of a column that holds a text in good rows.
VALUES: tuple[object, ...] = (
    None,
    "",
    " ",
    5,
    -1.5,
    True,
    [],
    {},
    [1],
    ["a", "b"],
    {"role": "user"},
    [{"role": "user"}],
    [{"role": "user", "content": None}],
    [{"role": "x", "content": "a"}],
    [{"role": "user", "content": [{"type": "image"}]}],
    "\ud800",
    "\x00",
    "a" * 200_000,
    "<|im_end|>",
    "\u202e",
    float("nan"),
    10**400,
    [[]],
    [{"content": "a"}],
)
TORN_BYTES = (b"\x00", b"\xff\xfe", b"\x80", b"{", b"}", b'"', b"\n", b"[" * 5000, b"NaN", b"\xef\xbb\xbf")


@dataclass(frozen=True)
class DataFile:
    """A file of rows.

    make: writes the file at a path.
    """

    kind: str
    name: str
    make: Callable[[Path], None]

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


def _bytes(content: bytes) -> Callable[[Path], None]:
    def make(file: Path) -> None:
        file.write_bytes(content)

    return make


def _with_value(column: str, value: object, rows: int) -> bytes:
    changed = [{**row, column: value} if i < rows else row for i, row in enumerate(ROWS)]
    return "".join(f"{json.dumps(row)}\n" for row in changed).encode()


def _table(file: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(ROWS), file)


def _damaged(made: bytes, number: int) -> bytes:
    """The content with a byte changed, a part cut out, or the end cut off."""
    draw = random.Random(number)
    place = draw.randrange(len(made))
    if number % 3 == 0:
        return made[:place]
    if number % 3 == 1:
        return made[:place] + draw.choice(TORN_BYTES) + made[place + 1 :]
    return made[:place] + made[place + draw.randrange(1, 200) :]


def _damaged_table(number: int) -> Callable[[Path], None]:
    def make(file: Path) -> None:
        _table(file)
        file.write_bytes(_damaged(file.read_bytes(), number))

    return make


def data_files() -> Iterator[DataFile]:
    """All cases, in an order that stays the same."""
    for column in ("prompt", "chosen", "rejected"):
        for i, value in enumerate(VALUES):
            made = _with_value(column, value, 1 if i % 2 else len(ROWS))
            yield DataFile("values of a wrong type", f"{column}-{i}.jsonl", _bytes(made))
    for number in range(24):
        yield DataFile("damaged lines", f"damaged-{number}.jsonl", _bytes(_damaged(GOOD, number)))
    zipped = io.BytesIO()
    with gzip.GzipFile(fileobj=zipped, mode="wb", mtime=0) as handle:
        handle.write(GOOD)
    for number in range(9):
        yield DataFile("damaged gzip", f"damaged-{number}.jsonl.gz", _bytes(_damaged(zipped.getvalue(), number)))
    for number in range(15):
        yield DataFile("damaged Parquet", f"damaged-{number}.parquet", _damaged_table(number))
    lines = {
        "empty": b"",
        "blank": b"\n\n",
        "utf16": GOOD.decode().encode("utf-16"),
        "bom": b"\xef\xbb\xbf" + GOOD,
        "crlf": GOOD.replace(b"\n", b"\r\n"),
        "list": b"[" + b",".join(GOOD.split(b"\n")[:-1]) + b"]",
        "numbers": b"1\n2\n",
        "lists": b"[]\n[1]\n",
        "deep": b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}\n",
        "zeros": bytes(5000),
        "one row": GOOD.split(b"\n")[0] + b"\n",
        "same rows": GOOD.split(b"\n")[0] * 1 + b"\n" + GOOD * 2,
        "no end": GOOD[:-1],
        "long number": b'{"prompt": ' + b"9" * 10_000 + b"}\n",
        "other columns": b'{"a": 1}\n' * 30,
        "many columns": json.dumps({f"c{i}": i for i in range(5000)}).encode() + b"\n",
        "csv": b"prompt,chosen\na,b\n",
    }
    for name, content in lines.items():
        yield DataFile("other content", f"{name.replace(' ', '-')}.jsonl", _bytes(content))
    tables = {
        "quotes": b'prompt,chosen,rejected\n"a,b,c\n' * 9,
        "columns": b"prompt,chosen,rejected\na,b\nc,d,e,f\n",
        "header": b"prompt,chosen,rejected\n",
        "zero": b"prompt,chosen,rejected\na\x00,b,c\n",
        "empty": b"",
        "field": b"prompt,chosen,rejected\n" + b"a" * 300_000 + b",b,c\n",
        "latin": "prompt,chosen,rejected\né,b,c\n".encode("latin-1"),
    }
    for name, content in tables.items():
        yield DataFile("CSV", f"{name}.csv", _bytes(content))
    places: dict[str, Callable[[Path], None]] = {
        "folder.jsonl": lambda file: file.mkdir(),
        "loop.jsonl": lambda file: file.symlink_to(file),
        "pipe.jsonl": lambda file: os.mkfifo(file),
        "gone.jsonl": lambda file: None,
        "zero.jsonl": lambda file: file.symlink_to("/dev/zero"),
        "null.jsonl": lambda file: file.symlink_to("/dev/null"),
        "random.jsonl": lambda file: file.symlink_to("/dev/urandom"),
        "dangling.jsonl": lambda file: file.symlink_to("/no"),
        "memory.jsonl": lambda file: file.symlink_to("/proc/self/mem"),
        "plain.txt": _bytes(GOOD),
        "archive.zip": _bytes(b"PK"),
    }
    for name, make in places.items():
        yield DataFile("no file of rows", name, make)
