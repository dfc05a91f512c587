"""All runs of a folder: their states, filters, names, differences, and the time to read thousands of them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from alignlab.config.schemas import Evaluate
from alignlab.errors import ConfigError
from alignlab.integrity import write_sealed
from alignlab.pipeline.export import Request, export
from alignlab.pipeline.named_policy import run_named
from alignlab.pipeline.requested_runs import requested_runs
from alignlab.reports.chosen import chosen_runs
from alignlab.reports.collect import find_sweep
from alignlab.rollout.engines.huggingface import HuggingFace
from alignlab.runs.archive import members_of
from alignlab.runs.directory import RunDir
from alignlab.runs.query import Filter, children_of, difference, find, runs_of, select


def add(root: Path, id: str, **values: Any) -> None:
    config = {"objective": {"beta": 0.1}, "seed": 1, "data": {"path": "hh"}, "peft": None, **values.pop("config", {})}
    record = {"id": id, "status": "done", "config": config, "started": "2026-01-01T00:00:00+00:00", **values}
    folder = RunDir.of(root, id).path
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add(tmp_path, "sft-aaa1", started="2025-01-01T00:00:00+00:00")
    add(tmp_path, "dpo-bbb1", parent="sft-aaa1", summary={"exact/kl": 2.0}, sweep="s1")
    add(
        tmp_path,
        "dpo-bbb2",
        parent="sft-aaa1",
        config={"objective": {"beta": 0.3}, "seed": 2},
        summary={"exact/kl": 0.5},
    )
    add(tmp_path, "kto-ccc1", status="failed", reason="out of luck", config={"data": {"path": "lab"}})
    write_sealed(
        tmp_path / "sweeps" / "s2" / "sweep.json", {"name": "s2", "points": [{"run": "dpo-bbb1"}, {"run": "kto-ccc1"}]}
    )
    return tmp_path


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ([], ["sft-aaa1", "dpo-bbb1", "dpo-bbb2", "kto-ccc1"]),
        (["objective=dpo"], ["dpo-bbb1", "dpo-bbb2"]),
        (["objective=dpo,kto", "status=done"], ["dpo-bbb1", "dpo-bbb2"]),
        (["status!=done"], ["kto-ccc1"]),
        (["objective.beta=0.10", "objective!=kto"], ["sft-aaa1", "dpo-bbb1"]),
        (["objective.beta>0.1"], ["dpo-bbb2"]),
        (["exact/kl<=2"], ["dpo-bbb1", "dpo-bbb2"]),
        (["exact/kl<2", "seed=2"], ["dpo-bbb2"]),
        (["data.path=l*"], ["kto-ccc1"]),
        (["reason=*luck*"], ["kto-ccc1"]),
        (["parent=sft-*"], ["dpo-bbb1", "dpo-bbb2"]),
        (["peft=null", "seed=1"], ["sft-aaa1", "dpo-bbb1", "kto-ccc1"]),
        (["sweep=s2"], ["dpo-bbb1", "kto-ccc1"]),
        (["sweep!=s2"], ["sft-aaa1", "dpo-bbb2"]),
        (["id=*bbb*"], ["dpo-bbb1", "dpo-bbb2"]),
    ],
)
def test_conditions(root: Path, conditions: list[str], found: list[str]) -> None:
    got = select(runs_of(root), [Filter.parse(c) for c in conditions], root)
    assert sorted(r["id"] for r in got) == sorted(found)


def test_oldest_first(root: Path) -> None:
    assert runs_of(root)[0]["id"] == "sft-aaa1"


def test_keys_that_no_run_has_are_refused_all_at_once(root: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        select(runs_of(root), [Filter.parse("objective.bta=1"), Filter.parse("zzz=1")], root)
    assert [p.key for p in caught.value.problems] == ["objective.bta", "zzz"]
    assert caught.value.problems[0].type_this == "objective.beta=1"
    with pytest.raises(ConfigError, match="is not a condition"):
        Filter.parse("beta")


@pytest.mark.parametrize("text", ["exact/kl>abc", "exact/kl<1,2", "exact/kl>=nan"])
def test_a_number_is_compared_with_one_number(text: str) -> None:
    with pytest.raises(ConfigError, match="needs exactly one number"):
        Filter.parse(text)


def test_names(root: Path) -> None:
    records = runs_of(root)
    assert find(records, "kto")["id"] == find(records, "ccc")["id"] == find(records, "outputs/runs/kto-ccc1")["id"]
    assert find(records, "bbb2")["id"] == "dpo-bbb2"
    with pytest.raises(ConfigError, match="fits several runs: dpo-bbb1, dpo-bbb2"):
        find(records, "dpo")
    with pytest.raises(ConfigError, match="no such run"):
        find(records, "ipo")


@pytest.mark.parametrize("name", ["", ".", "./.", "/", "  ", "./ "])
def test_a_text_without_a_name_is_no_run(name: str, root: Path) -> None:
    """It would be the beginning of every id, and of the only run's too."""
    asked = Evaluate(run=name or " ", engine=HuggingFace(), output_root=str(root))
    for call in (
        lambda: find(runs_of(root)[:1], name),
        lambda: members_of(root, name),
        lambda: find_sweep(root, name),
        lambda: chosen_runs(root, [name, "dpo-bbb1"]),
        lambda: requested_runs(asked),
        lambda: run_named(name or " ", str(root)) or export(Request(name, "merged", output_root=str(root))),
    ):
        with pytest.raises(ConfigError, match="needs the id of a run"):
            call()


def test_difference_and_children(root: Path) -> None:
    records = runs_of(root)
    assert difference(find(records, "bbb1"), find(records, "bbb2")) == {"objective.beta": (0.1, 0.3), "seed": (1, 2)}
    assert children_of(find(records, "sft"), records) == ["dpo-bbb1", "dpo-bbb2"]


@pytest.mark.parametrize(
    "content", ['{"id": "dpo-b', "", "[1]", "\0" * 40, '{"config": 3}', '{"summary": [1]}', '{"attempt": "x"}', None]
)
def test_broken_files_hide_no_other_run(content: str | None, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run with a damaged record is listed as damaged. A sweep with a damaged record is left out with a warning."""
    record = root / "runs" / "dpo-bbb1" / "run.json"
    record.unlink()
    if content is None:
        record.mkdir()
    else:
        record.write_text(content)
    (root / "runs" / "stray").write_text("")
    (root / "sweeps" / "s2" / "sweep.json").write_text('{"name": "s2", "points": 3}')
    found = select(runs_of(root), [Filter.parse("sweep!=s2")], root)
    assert "run.json can't be read" not in caplog.text, "nobody has asked about this run"
    for _ in range(2):
        found = select(runs_of(root, listed=True), [Filter.parse("sweep!=s2")], root)
    assert {r["id"]: r["status"] for r in found}["dpo-bbb1"] == "damaged"
    assert len(found) == 4
    (one,) = select(found, [Filter.parse("status=damaged")], root)
    assert str(record) in one["reason"]
    assert caplog.text.count("run.json can't be read") == caplog.text.count("sweep.json can't be read") == 1


def test_a_changed_number_in_a_record_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    run.end("done", summary={"exact/kl": 4.36})
    run.record_file.write_text(run.record_file.read_text().replace("4.36", "4.37"))
    (record,) = runs_of(tmp_path)
    assert record["summary"] == {"exact/kl": 4.37}, "it may have been changed on purpose"
    assert "run.json was changed by hand, or is damaged (its checksum is wrong)" in caplog.text
    run.end("done", summary={"exact/kl": 4.36})
    caplog.clear()
    assert [r["summary"] for r in runs_of(tmp_path)] == [{"exact/kl": 4.36}]
    assert not caplog.text


def test_thousands_of_runs(tmp_path: Path) -> None:
    """3,000 runs with records like real ones (100 metrics, a full config). The time is printed, not asserted."""
    for i in range(3000):
        add(
            tmp_path,
            f"dpo-{i:012x}",
            config={"seed": i, **{f"group{k}": {f"key{j}": j for j in range(10)} for k in range(8)}},
            summary={f"train/metric_{k}": k / 7 for k in range(100)},
        )
    began = time.perf_counter()
    found = select(runs_of(tmp_path), [Filter.parse("seed<10")], tmp_path)
    print(f"3,000 runs read and filtered in {time.perf_counter() - began:.2f} s")
    assert len(found) == 10


def test_an_output_root_that_can_not_be_listed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("file", "loop"):
        with pytest.raises(ConfigError, match=f"output_root = .*{name}\n *can't be read: "):
            runs_of(tmp_path / name)
    assert runs_of(tmp_path / "none") == []
