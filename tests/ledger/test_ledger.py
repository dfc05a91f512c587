"""Run directories: identity, atomic records, what a fresh start keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignlab.errors import OutputError
from alignlab.ledger.identity import flatten, run_id
from alignlab.ledger.run_dir import RunDir, write_json


def identity(config: dict[str, object], **changes: object) -> str:
    arguments = {"content": {}, "parent": None, "unused": ()} | changes
    return run_id("dpo", config, **arguments)  # type: ignore[arg-type]


CONFIG = {"seed": 1, "objective": {"beta": 0.1}, "data": {"path": "a", "limit": 3}, "trainer": {"max_steps": 5}}


def test_identity_is_stable_and_sees_what_matters() -> None:
    assert identity(CONFIG) == identity(json.loads(json.dumps(CONFIG)))
    assert identity(CONFIG).startswith("dpo-")
    assert len(identity(CONFIG)) == len("dpo-") + 12
    for key, value in (("seed", 2), ("objective", {"beta": 0.2}), ("data", {"path": "a", "limit": 4})):
        assert identity({**CONFIG, key: value}) != identity(CONFIG)
    assert identity(CONFIG, parent="sft-1") != identity(CONFIG) != identity(CONFIG, content={"data.content": "x"})


def test_identity_ignores_what_is_cosmetic_or_unused() -> None:
    cosmetic = {
        **CONFIG,
        "output_root": "elsewhere",
        "tracking": {"project": "x"},
        "trainer": {"max_steps": 5, "progress": False, "accelerator": "cpu"},
    }
    assert identity(cosmetic) == identity(CONFIG)
    moved = {**CONFIG, "data": {"path": "b", "limit": 3}}
    assert identity(moved) != identity(CONFIG)
    assert identity(moved, unused=("data.path",)) == identity(CONFIG, unused=("data.path",))


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": None}) == {"a.b": 1, "a.c": [1, 2], "d": None}


def test_a_run_from_start_to_end(tmp_path: Path) -> None:
    run = RunDir.of(tmp_path, "dpo-1")
    assert run.status() is None
    run.start("seed: 1\n", fresh=True, parent="sft-1")
    record = run.record()
    assert (record["status"], record["attempt"], record["parent"], record["ended"]) == ("running", 1, "sft-1", None)
    assert run.config.read_text() == "seed: 1\n"
    (run.path / "checkpoints" / "last.ckpt").write_text("state")
    run.end("failed", "out of luck")
    assert (run.record()["status"], run.record()["reason"]) == ("failed", "out of luck")
    run.start("seed: 1\n", fresh=False)
    assert run.checkpoint.read_text() == "state"
    assert (run.record()["attempt"], run.record()["reason"]) == (2, None)
    run.start("seed: 1\n", fresh=True)
    assert not run.checkpoint.exists()
    assert run.record()["attempt"] == 3


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    write_json(file, {"status": "done"})
    with pytest.raises(TypeError):
        write_json(file, {("not", "a", "key"): 1})  # type: ignore[dict-item]
    assert json.loads(file.read_text()) == {"status": "done"}
    assert [f.name for f in tmp_path.iterdir()] == ["run.json"]


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="output_root can't be written"):
        RunDir.of(tmp_path / "file", "dpo-1").lock()
