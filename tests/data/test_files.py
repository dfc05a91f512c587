"""Reading files of rows: texts are not converted, and errors name the lines that are not rows."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import psutil
import pytest

from alignlab.data.files import parse_records, read_records
from alignlab.data.fingerprint import path_digest
from alignlab.data.locations import missing, parts_of
from alignlab.data.sources.base import local_files
from alignlab.data.sources.pairs import Pairs
from alignlab.errors import DataError

# Texts that readers with type inference convert into dates, numbers, booleans or missing values.
LOOK_LIKE = ["2024-01-01", "2021-03-01 10:00:00", "007", "1230.0", "1e3", "NA", "null", "None", "True", " x ", ""]


def column(path: Path) -> list[Any]:
    return [row["text"] for row in read_records(path)]


def test_tabs_separate_cells(tmp_path: Path) -> None:
    (tmp_path / "x.tsv.gz").write_bytes(gzip.compress(b'prompt\tchosen\n007\t"a\tb, c"\n', mtime=0))
    assert read_records(tmp_path / "x.tsv.gz") == [{"prompt": "007", "chosen": "a\tb, c"}]


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.parquet", "x.jsonl.gz", "x.csv.gz", "x.JSONL"])
def test_text_stays_text(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    rows = [{"id": str(i), "text": text} for i, text in enumerate(LOOK_LIKE)]
    if ".parquet" in name:
        pd.DataFrame(rows).to_parquet(file)
    elif ".csv" in name:
        with (gzip.open if name.endswith(".gz") else open)(file, "wt", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, ["id", "text"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        text = json.dumps(rows, indent=1) if name.endswith(".json") else "\n".join(map(json.dumps, rows))
        raw = text.encode()
        file.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    assert column(file) == LOOK_LIKE


def test_dates_in_conversations_stay_text(tmp_path: Path) -> None:
    turn = {"prompt": [{"role": "user", "content": "When?"}], "rejected": [{"role": "assistant", "content": "1999"}]}
    rows = [{**turn, "chosen": [{"role": "assistant", "content": f"2021-03-0{i}"}]} for i in (1, 2)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = str(tmp_path / "x.jsonl")
    assert [pair.chosen for pair in Pairs(path=path, eval_path=path).pairs("train", None).rows] == [
        "2021-03-01", "2021-03-02",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", b'\xef\xbb\xbf{"text": "a"}\n\n  \n{"text": "b"}'),
        ("x.jsonl", b'{"text": "a"}\r\n{"text": "b"}\r\n'),
        ("x.jsonl", b'[{"text": "a"},\n {"text": "b"}]'),
        ("x.json", b'{"text": "a"}\n{"text": "b"}\n'),
        ("x.json", b'\xef\xbb\xbf[{"text": "a"}, {"text": "b"}]'),
        ("x.csv", b"\xef\xbb\xbftext\r\na\r\n\r\nb\r\n"),
        ("x.jsonl", gzip.compress(b'{"text": "a"}\n{"text": "b"}', mtime=0)),
        ("x.jsonl.gz", b'{"text": "a"}\n{"text": "b"}'),
    ],
)
def test_what_is_read_all_the_same(name: str, content: bytes) -> None:
    assert [row["text"] for row in parse_records(content, name)] == ["a", "b"]


def test_other_line_ends_and_long_cells_are_text() -> None:
    odd = "one\u2028two\x85three\x0bfour"
    assert parse_records(json.dumps({"text": odd}, ensure_ascii=False).encode(), "x.jsonl") == [{"text": odd}]
    long = "word " * 60_000
    assert parse_records(f'a,b\n"{long}","two\nlines"\n'.encode(), "x.csv") == [{"a": long, "b": "two\nlines"}]


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("x.jsonl", b"null\n", "line 1: must be an object with named columns, not null"),
        ("x.jsonl", b'null\n{"a": 1}\n[2]\n"t"\n3\n', "x.jsonl: 4 rows can't be used\n  line 1: must be an object"),
        ("x.jsonl", b'{"a": 1}\n{"a": 2', "line 2: is not JSON"),
        ("x.jsonl", b'{"a": 1}\n{"a": "\xe9"}', "line 2 is not UTF-8 (byte 0xe9): save the file as UTF-8"),
        ("x.jsonl", '{"a": 1}'.encode("utf-16"), "line 1 is not UTF-8 (byte 0xff)"),
        ("x.jsonl", b"[1]\n[2]\n", "line 1: must be an object"),
        ("x.jsonl", b"[" * 100_000, "is not JSON"),
        ("x.json", b'{"data": [], "version": 1}', "but contains one object with the keys data"),
        ("x.json", b"null", "must contain a list of rows, but contains null"),
        ("x.json", b'[{"a": 1}, null]', "row 2: must be an object with named columns, not null"),
        ("x.json", b'[{"a": 1},\n {"a" 2}]', "line 2 is not JSON: Expecting ':' delimiter (column 7)"),
        ("x.csv", b"a,b\n1,2\n3\n4,5,6\n", "2 rows can't be used\n  row 2: has 1 cell, but the header has 2"),
        ("x.csv", b'a,b\n1,"open\n', "is not CSV: unexpected end of data"),
        ("x.csv", b"a,a\n1,2\n", "has more than one column a"),
        ("x.parquet", b"PAR1 no", "can't be read"),
        ("x.jsonl.gz", gzip.compress(b'{"a": 1}', mtime=0)[:-9], "can't be read"),
    ],
)  # fmt: skip
def test_what_is_no_row(name: str, content: bytes, text: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_records(content, name)
    assert text in str(caught.value)


@pytest.mark.parametrize("content", ["", "\n \n", "[]", "prompt,chosen,rejected\n"])
def test_a_file_without_rows(content: str, tmp_path: Path) -> None:
    file = tmp_path / ("x.csv" if "," in content else "x.jsonl")
    file.write_text(content)
    with pytest.raises(DataError, match="is empty: it has no rows"):
        Pairs(path=str(file)).pairs("train", None)


def rewritten(file: Path, old: str, new: str) -> None:
    """Change the content of a file, but neither its size nor its modification time."""
    stat, text = file.stat(), file.read_text()
    file.write_text(text.replace(old, new))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_mtime_ns, file.stat().st_size) == (stat.st_mtime_ns, stat.st_size)


@pytest.mark.parametrize("folder", [False, True])
def test_rows_are_those_that_the_file_holds_now(folder: bool, tmp_path: Path) -> None:
    file = tmp_path / "data" / "train.jsonl"
    file.parent.mkdir()
    file.write_text("".join(json.dumps({"prompt": f"p{i}", "chosen": "old", "rejected": "no"}) + "\n" for i in "ab"))
    path = str(file.parent if folder else file)
    source = Pairs(path=path, eval_path=path)
    before, digest = source.fingerprint(), path_digest(file)
    assert {pair.chosen for pair in source.pairs("train", None).rows} == {"old"}
    rewritten(file, "old", "new")
    assert {pair.chosen for pair in source.pairs("train", None).rows} == {"new"}
    assert source.fingerprint() != before
    assert path_digest(file) != digest


def test_a_folder_as_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, text in (("train-00000", "007"), ("train-00001", "2024-01-01"), ("test-00000", "other")):
        pd.DataFrame([{"prompt": name, "chosen": text, "rejected": "no"}]).to_parquet(tmp_path / f"data/{name}.parquet")
    source = Pairs(path=str(tmp_path), eval_path=str(tmp_path))
    assert [pair.chosen for pair in source.pairs("train", None).rows] == ["007", "2024-01-01"]
    (tmp_path / "data/train-00002.txt").write_text("x")
    for file in tmp_path.rglob("*.parquet"):
        file.unlink()
    with pytest.raises(DataError, match=r"not one of \.jsonl, \.json, \.parquet, \.csv, \.tsv: .*train-00002\.txt"):
        source.pairs("train", None)


def test_devices_and_pipes_are_refused_before_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name in ("zero.jsonl", "pipe.jsonl"):
        with pytest.raises(DataError, match=f"{name} can't be read: it is a device or a pipe, not a file"):
            read_records(tmp_path / name)
        with pytest.raises(DataError, match="it is a device or a pipe"):
            parts_of(str(tmp_path / name), "train", "")
        assert [problem.allowed[:21] for problem in missing("path", str(tmp_path / name))] == ["is a device or a pipe"]


def test_files_that_do_not_fit_into_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is small on the disk: a hole, gzipped spaces, and a column with the same value many times."""
    with (tmp_path / "hole.jsonl").open("wb") as file:
        file.truncate(10**12)
    (tmp_path / "spaces.jsonl.gz").write_bytes(gzip.compress(b" " * 2**25))
    pd.DataFrame({"prompt": pd.Categorical(["Hi"] * 10**6)}).to_parquet(tmp_path / "same.parquet")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**8))
    for name in ("hole.jsonl", "spaces.jsonl.gz", "same.parquet"):
        text = f"{name} has too many rows for the memory that is free: more than 0.025 GB, unpacked"
        with pytest.raises(DataError, match=text):
            read_records(tmp_path / name)
    (tmp_path / "fits.jsonl").write_text('{"text": "Hi"}')
    assert column(tmp_path / "fits.jsonl") == ["Hi"]


def test_the_working_directory_is_a_folder_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"type: data\.path=<a file, or a folder with files such as train\.jsonl"):
        local_files(".")
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    assert local_files(".") == [str(tmp_path / "train.jsonl")]
