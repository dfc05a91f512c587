"""The index of records: the same list with it and without it, and few files opened for thousands of runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alignlab.errors import ConfigError
from alignlab.integrity import sealed
from alignlab.runs import index
from alignlab.runs.directory import RunDir
from alignlab.runs.query import Filter, listed_runs, runs_of, select

Run = Callable[..., Any]
_COMMON = ("id", "flat", *(key for key in index.FIELDS if key != "reward"))


def add(root: Path, id: str, **values: Any) -> Path:
    config = {
        "objective": {"name": "dpo", "beta": 0.1},
        "seed": 1,
        "peft": None,
        "data": {"mix": [1, {"a": 2}], "x": {}},
    }
    record = {"id": id, "status": "done", "started": "2026-01-01T00:00:00+00:00", "summary": {"exact/kl": 0.5}}
    file = RunDir.of(root, id).record_file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        sealed({**record, "config": {**config, **values.pop("config", {})}, "overrides": ["a=1"], **values})
    )
    return file


def shown(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a list or a condition may use."""
    kept = ({key: record.get(key) for key in _COMMON} | {"summary": record.get("summary", {})} for record in records)
    return [{**record, "flat": dict(record["flat"])} for record in kept]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new record is worth an index, also one that was just written."""
    monkeypatch.setattr(index, "WORTH", 1)
    monkeypatch.setattr(index, "_SETTLED", -(10**18))


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Names of the files that are opened below a folder of runs while the test runs."""
    found: list[str] = []
    is_over = False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if not is_over and event == "open" and f"{os.sep}runs{os.sep}" in str(args[0]):
            found.append(Path(str(args[0])).name)

    sys.addaudithook(hook)  # it can't be removed
    yield found
    is_over = True


def strange_runs(root: Path) -> None:
    """Records of every status, with faults of every kind, and what is no run."""
    for number, status in enumerate(("done", "failed", "diverged", "interrupted", "running", "queued")):
        add(root, f"dpo-{number}", status=status, reason="out of luck", config={"seed": number}, host="elsewhere")
    add(root, "dpo-other", host=None, parent="dpo-1", sweep="s", started="2027-01-01T00:00:00+00:00", summary={})
    add(root, "dpo-nan", summary={"eval/loss": float("nan"), "exact/kl": None})
    add(root, "dpo-keys", config={"objective.beta": 7, "é": {"\ud800": "\x1b[31m"}})
    add(root, "dpo-no-status", status=None)
    add(root, "dpo-types", attempt="x", started=3)
    add(root, "dpo-odd", host=5, reason=["a"])
    edited = add(root, "dpo-edited")
    edited.write_text(edited.read_text().replace("0.5", "0.7"))
    for name, text in (("dpo-cut", '{"id": "dpo'), ("dpo-list", "[1]"), ("dpo-empty", "")):
        add(root, name).write_text(text)
    (root / "runs" / "dpo-folder" / "run.json").mkdir(parents=True)
    (root / "runs" / "dpo-nothing").mkdir()
    (root / "runs" / "stray").write_text("")


def test_a_list_with_an_index_is_the_list_without(small: None, tmp_path: Path) -> None:
    strange_runs(tmp_path)
    file = tmp_path / "runs" / ".index"
    without = shown(runs_of(tmp_path))
    assert {r["id"]: r["status"] for r in without}["dpo-cut"] == "damaged"
    assert len(without) == 17
    assert repr(shown(listed_runs(tmp_path))) == repr(without), "the index is written"
    entries = json.loads(file.read_bytes().partition(b"\n")[2])["runs"]
    assert {"dpo-0", "dpo-nan", "dpo-keys"} <= set(entries)
    assert not {"dpo-types", "dpo-odd", "dpo-edited", "dpo-cut", "dpo-no-status"} & set(entries), "they have faults"
    whole = file.read_bytes()
    assert repr(shown(listed_runs(tmp_path))) == repr(without), "it is read"
    for damaged in (whole[:-1], whole[:70], b"", whole.replace(b"0.5", b"0.6"), b"\xff" * 100, b"[]"):
        file.write_bytes(damaged)
        assert repr(shown(listed_runs(tmp_path))) == repr(without)
    assert file.read_bytes() == whole, "a damaged index is written anew"
    file.unlink()
    file.mkdir()
    assert repr(shown(listed_runs(tmp_path))) == repr(without), "it can't be written"


def test_a_changed_record_is_read_again(small: None, tmp_path: Path) -> None:
    """Also one that is changed in place, with the same size and the same time of the change."""
    files = [add(tmp_path, f"dpo-{number}", config={"seed": number}) for number in range(4)]
    listed_runs(tmp_path)
    was = files[0].stat()
    record = json.loads(files[0].read_text())
    files[0].write_text(sealed({**record, "summary": {"exact/kl": 0.8}}))
    os.utime(files[0], ns=(was.st_atime_ns, was.st_mtime_ns))
    assert files[0].stat().st_size == was.st_size
    RunDir.of(tmp_path, "dpo-1").update(status="failed")
    RunDir.of(tmp_path, "dpo-2").remove()
    add(tmp_path, "dpo-9")
    found = {record["id"]: record for record in listed_runs(tmp_path)}
    assert list(found) == ["dpo-0", "dpo-1", "dpo-3", "dpo-9"]
    assert found["dpo-0"]["summary"] == {"exact/kl": 0.8}
    assert found["dpo-1"]["status"] == "failed"
    assert shown(listed_runs(tmp_path)) == shown(runs_of(tmp_path))


def test_the_status_of_an_indexed_run_is_the_current_one(small: None, tmp_path: Path) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    add(tmp_path, "dpo-1", status="running", host=os.uname().nodename)
    with run.locked():
        assert [r["status"] for r in (*listed_runs(tmp_path), *listed_runs(tmp_path))] == ["running", "running"]
    assert [r["status"] for r in listed_runs(tmp_path)] == ["interrupted"]


def test_conditions_search_all_runs_and_open_few_files(tmp_path: Path, opened: list[str], alignlab: Run) -> None:
    root = tmp_path / "outputs"
    for number in range(450):
        started = f"2026-01-01T{number // 60:02}:{number % 60:02}:00+00:00"
        add(root, f"dpo-{number:03}", config={"seed": number}, summary={"exact/kl": number / 10}, started=started)
    assert len(listed_runs(root)) == 450
    assert opened.count("run.json") >= 450
    assert not (root / "runs" / ".index").exists(), "records that changed just now are not indexed"
    index_settled, index._SETTLED = index._SETTLED, 0
    try:
        listed_runs(root)
    finally:
        index._SETTLED = index_settled
    opened.clear()
    newest = alignlab("runs")
    assert opened.count("run.json") == 0
    lines = newest.out.splitlines()
    assert (lines[1].split()[0], lines[200].split()[0], len(lines)) == ("dpo-250", "dpo-449", 202)
    assert lines[201] == "250 older runs are not listed; --all lists all"
    assert len(alignlab("runs", "--all").out.splitlines()) == 451
    assert alignlab("runs", "exact/kl<0.15").out.splitlines()[1].split()[0] == "dpo-000"
    assert opened.count("run.json") == 0
    assert "type: objective.beta=1" in alignlab("runs", "objective.bta=1").err
    add(root, "dpo-new")
    assert alignlab("runs", "id=dpo-new").out.splitlines()[1].startswith("dpo-new")
    assert opened.count("run.json") <= 3, "only the new one"
    (root / "runs" / ".index").unlink()
    assert "dpo-000" in alignlab("runs", "exact/kl<0.15").out


def test_a_warning_is_repeated_for_each_command(
    small: None, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path, "dpo-odd", host=5)
    for _ in range(2):
        monkeypatch.setattr("alignlab.runs.directory._named", set())  # as in a new process
        caplog.clear()
        listed_runs(tmp_path)
        assert "fields have a wrong type and are left out: host" in caplog.text


def test_a_key_that_no_run_has_is_refused(small: None, tmp_path: Path) -> None:
    add(tmp_path, "dpo-1")
    for _ in range(2):
        with pytest.raises(ConfigError, match="no run has this key"):
            select(listed_runs(tmp_path), [Filter.parse("zzz=1")], tmp_path)
