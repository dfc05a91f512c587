"""`alignlab runs gc` deletes what nothing refers to, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from filelock import FileLock
from pyarrow import parquet

from alignlab.data.fingerprint import digest
from alignlab.integrity import write_sealed
from alignlab.models.lineage import weights_fingerprint
from alignlab.pipeline.garbage import HALF_WRITTEN, LOCK, delete, find_garbage
from alignlab.runs.directory import RunDir

Run = Callable[..., Any]


def evaluated(folder: Path, **facts: str) -> None:
    folder.mkdir(parents=True)
    table = pa.table({"prompt": ["a"]}).replace_schema_metadata(facts)
    parquet.write_table(table, folder / "rows.parquet")


def made_run(root: Path, name: str, weights: str, rows: str, status: str = "done", kept: str | None = None) -> RunDir:
    run = RunDir.of(root, name)
    split = {"digest": rows}
    record = {"id": name, "status": status, "kept": kept, "reference_weights": weights, "data": {"train": split}}
    write_sealed(run.record_file, {**record, "host": "elsewhere"})
    run.checkpoint.parent.mkdir()
    run.checkpoint.write_bytes(b"s" * 1000)
    return run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Entries of one run and its evaluation in every store, and entries of a run that was removed (`gone`)."""
    root = tmp_path / "outputs"
    run = made_run(root, "dpo-1", "start", "rows")
    evaluated(run.path / "evaluation" / "e", weights="policy", reference="start", **{"judge/gold": "judge"})
    for weights, rows, judge in (("start", "rows", "judge"), ("gone", "gone", "gone")):
        store = root / "reference" / digest([weights.encode(), b"sdpa"])
        store.mkdir(parents=True)
        (store / "shard.safetensors").write_bytes(b"r" * 500)
        write_sealed(root / "samples" / f"{weights}.json", {"key": "k", "weights": weights, "answers": []})
        write_sealed(root / "samples/prompts/00" / f"{weights}.json", {"request": {"policy": weights}, "reply": {}})
        write_sealed(root / "judgements/scores/00" / f"{judge}.json", {"request": {"judge": judge}, "reply": {}})
        (root / "tokens" / rows).mkdir(parents=True)
        (root / "tokens" / rows / "split.json").write_text(json.dumps({"digest": rows}))
    return root


def left(root: Path) -> set[str]:
    files = [path for path in root.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    return {path.relative_to(root).as_posix() for path in files if ".locks" not in path.parts}


def test_what_a_run_refers_to_stays(root: Path) -> None:
    before = left(root)
    gone = digest([b"gone", b"sdpa"])
    number, size, kept = delete(find_garbage(root).pieces)
    assert before - left(root) == {
        f"reference/{gone}/shard.safetensors", "samples/gone.json", "samples/prompts/00/gone.json",
        "judgements/scores/00/gone.json", "tokens/gone/split.json", "runs/dpo-1/checkpoints/last.ckpt",
    }  # fmt: skip
    assert (number, kept) == (6, [])
    assert size > 1500
    assert not find_garbage(root).pieces
    RunDir.of(root, "dpo-1").remove()
    delete(find_garbage(root).pieces)
    assert not left(root)


def test_states_that_were_asked_for_and_those_of_unfinished_runs_stay(root: Path) -> None:
    made_run(root, "dpo-2", "start", "rows", kept="state")
    made_run(root, "dpo-3", "start", "rows", status="interrupted")
    states = [piece.path.parents[1].name for piece in find_garbage(root).pieces if "states" in piece.kind]
    assert states == ["dpo-1"]


@pytest.mark.parametrize("lock", ["runs/.locks/dpo-1", "synthesis/pairs-1/lock", "tokens/gone.lock"])
def test_nothing_of_the_stores_is_touched_while_something_works(lock: str, root: Path) -> None:
    file = root / lock
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file):
        found = find_garbage(root)
    assert found.at_work
    assert {piece.kind for piece in found.pieces} <= {"training states of finished runs"}
    assert not any(piece.run for piece in found.pieces) or "dpo-1" not in lock


def test_a_run_that_starts_in_between_keeps_its_state(root: Path) -> None:
    pieces = [piece for piece in find_garbage(root).pieces if piece.run]
    with FileLock(RunDir.of(root, "dpo-1").lock_file):
        number, _, kept = delete(pieces)
    assert (number, kept) == (0, [RunDir.of(root, "dpo-1").checkpoint])


def test_entries_that_do_not_say_whose_they_are_stay(root: Path) -> None:
    """Samples of older versions, and the stores if an unfinished run of an older version may use them."""
    write_sealed(root / "samples/old.json", {"key": "k", "answers": []})
    assert find_garbage(root).unknown == {"sampled answers": 1}
    run = made_run(root, "dpo-3", "", "rows", status="interrupted")
    assert {piece.kind for piece in find_garbage(root).pieces} == {"training states of finished runs", "judgements"}
    run.remove()


def test_unfinished_preference_data_keeps_its_samples_and_judgements(root: Path) -> None:
    """A stopped `synthesize` goes on with them. Replies of language models stay as long as anything does."""
    reply = root / "judgements/llm/00/paid.json"
    write_sealed(reply, {"request": {"body": {"model": "m"}}, "reply": {}})
    (root / "synthesis/pairs-1").mkdir(parents=True)
    (root / "synthesis/pairs-1/lock").touch()
    found = find_garbage(root)
    assert found.unknown == {"sampled answers": 2, "judgements": 1}
    assert {piece.kind for piece in found.pieces} >= {"reference log-probabilities", "token rows"}
    assert reply not in [piece.path for piece in found.pieces]
    write_sealed(root / "synthesis/pairs-1/pairs.provenance.json", {"weights": "gone", "judge": "gone"})
    found = find_garbage(root)
    assert not found.unknown
    assert {piece.kind for piece in found.pieces} == {"training states of finished runs", "token rows"}


def test_bases_that_no_adapter_names(root: Path) -> None:
    """Bases are known by the digest of their weights, so a folder that was moved keeps those that it needs."""
    for weights in ("start", "named", "of-a-removed-run"):
        (root / "bases" / weights).mkdir(parents=True)
        (root / "bases" / weights / "model.safetensors").write_bytes(b"w" * 700)
    adapter = RunDir.of(root, "dpo-1").path / "policy"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/elsewhere/bases/named"}))
    (root / "bases" / "half.tmp").mkdir()
    found = [piece for piece in find_garbage(root).pieces if piece.kind == "bases of adapters"]
    assert [(piece.path.name, piece.size) for piece in found] == [("of-a-removed-run", 700)]
    with FileLock(root / "bases" / "of-a-removed-run.lock"):
        assert delete(found)[2] == [root / "bases" / "of-a-removed-run"]
    assert delete(found) == (1, 700, [])
    assert sorted(path.name for path in (root / "bases").iterdir()) == ["half.tmp", "named", "start"]


def test_scores_of_benchmarks(root: Path) -> None:
    policy = RunDir.of(root, "dpo-1").path / "policy"
    policy.mkdir()
    (policy / "model.safetensors").write_bytes(b"p")
    of = {"policy": weights_fingerprint(str(policy)), "start": "start", "gone": "gone", "old": None}
    for name, weights in of.items():
        write_sealed(root / "benchmarks" / f"{name}.json", {"scores": {}, **({"weights": weights} if weights else {})})
    found = find_garbage(root)
    assert [piece.path.name for piece in found.pieces if piece.kind == "scores of benchmarks"] == ["gone.json"]
    assert found.unknown == {"scores of benchmarks": 1}
    evaluated(root / "evaluations" / "m", weights="a model of no run")
    found = find_garbage(root)
    assert "scores of benchmarks" not in {piece.kind for piece in found.pieces}
    assert found.unknown == {"scores of benchmarks": 2}


def test_what_verify_resume_left(root: Path) -> None:
    for name in ("verify-resume-done", "verify-resume-at-work", "verify-resume-run"):
        made_run(root / name, "dpo-1", "start", "rows")
    with FileLock(root / "verify-resume-at-work" / LOCK), RunDir.of(root / "verify-resume-run", "dpo-1").locked():
        found = [piece for piece in find_garbage(root).pieces if piece.kind == "folders of verify-resume"]
        assert [piece.path.name for piece in found] == ["verify-resume-done"]
        assert delete(found)[0] == 1
    assert sorted(path.name for path in root.glob("verify-resume-*")) == ["verify-resume-at-work", "verify-resume-run"]


def test_files_that_a_killed_process_was_writing(root: Path) -> None:
    names = ("runs/dpo-1/run.json.a1.tmp", "runs/dpo-1/checkpoints/last.tmp", "sweeps/s/sweep.json.b2.tmp")
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{")
    found = [piece for piece in find_garbage(root).pieces if piece.kind == HALF_WRITTEN]
    assert {piece.path for piece in found} == {root / name for name in names}
    with RunDir(root / "runs" / "dpo-1").locked(wait=False):
        delete(found)
    assert (root / names[0]).exists(), "a process works on the run"
    assert not (root / names[2]).exists()
    delete(find_garbage(root).pieces)
    assert not [*root.rglob("*.tmp")]


def test_it_shows_sizes_and_asks(root: Path, alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda question: "n")
    asked = alignlab("runs", "gc", f"output_root={root}")
    assert asked.code == 1
    assert "training states of finished runs: 1, 1.0 kB\n" in asked.out
    assert "sampled answers: 2, 274 bytes\n" in asked.out
    assert "nothing deleted" in asked.out
    assert (root / "samples/gone.json").exists()
    done = alignlab("runs", "gc", f"output_root={root}", "--yes")
    assert (done.code, "deleted 6" in done.out) == (0, True)
    assert "nothing to delete" in alignlab("runs", "gc", f"output_root={root}").out
    assert alignlab("runs", "gc", "dpo-1", f"output_root={root}").code == 2


@pytest.mark.parametrize("value", [3, ["x"], {"policy": ["x"], "judge": {}}, None])
def test_entries_of_other_types_stay(value: object, root: Path) -> None:
    write_sealed(root / "samples/prompts/00/gone.json", {"request": value, "reply": {}})
    write_sealed(root / "samples/gone.json", {"weights": value})
    (root / "tokens/gone/split.json").write_text(json.dumps({"digest": value}))
    (root / "synthesis/pairs-1").mkdir(parents=True)
    write_sealed(root / "synthesis/pairs-1/pairs.provenance.json", {"weights": value, "judge": value})
    before = left(root)
    delete(find_garbage(root).pieces)
    removed = {name.split("/")[0] for name in before - left(root)}
    assert removed == {"reference", "judgements", "runs"}
