"""Tokenized splits are stored by content, and used again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose

from alignlab.config.plan import plan
from alignlab.data.token_table import TokenTable
from alignlab.errors import DataError
from alignlab.integrity import seal_folder
from alignlab.training import dataset
from alignlab.training.dataset import RunRows, load_rows
from alignlab.training.setup import load_initial_policy

SMALL = [
    "model=tiny", "model.hidden_size=8", "model.layers=1", "model.heads=1", "model.intermediate_size=8", "data=pairs",
    "evaluation=off",
    "trainer.max_steps=1", "trainer.batch_size=2", "data.max_length=64", "data.max_prompt_length=8", "tracking=none",
]  # fmt: skip

Load = Callable[..., RunRows]


@pytest.fixture
def load(tmp_path: Path, hydra_conf: None) -> Load:
    """Load the rows of a file as a new process does: nothing is kept in memory."""
    rows = [{"prompt": f"prompt {i % 9}", "chosen": "yes " * (i % 5 + 1), "rejected": "no"} for i in range(40)]
    rows += [{"prompt": "x", "chosen": "same", "rejected": "same"}, {"prompt": "y", "chosen": "", "rejected": "no"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def loaded(*words: str) -> RunRows:
        dataset._kept.clear()
        root = [f"output_root={tmp_path}/outputs", f"data.path={tmp_path}/rows.jsonl"]
        return load_rows(load_initial_policy(plan(compose("train", [*SMALL, *root, *words]))))

    return loaded


def folders(tmp_path: Path) -> list[Path]:
    return sorted(path for path in tmp_path.glob("outputs/tokens/*") if path.is_dir())


@pytest.mark.parametrize("words", [[], ["objective=kto"], ["objective=sft"], ["data.noise.flipped=0.2"]])
def test_stored_rows_are_those_that_were_made(words: list[str], load: Load, tmp_path: Path) -> None:
    made = load(*words)
    before = {file: file.stat().st_mtime_ns for folder in folders(tmp_path) for file in folder.iterdir()}
    stored = load(*words)
    assert {file: file.stat().st_mtime_ns for folder in folders(tmp_path) for file in folder.iterdir()} == before
    assert isinstance(stored.train, TokenTable)
    assert list(stored.train) == list(made.train)
    assert stored.held_out == made.held_out
    assert stored.record == made.record
    assert stored.left_out == made.left_out
    assert (stored.counts, stored.mean_tokens) == (made.counts, made.mean_tokens)
    assert {(row.reason, row.place.row if row.place else 0) for row in stored.left_out["train"]} >= {
        ("identical answers", 41), ("empty answer", 42),
    }  # fmt: skip


def test_what_changes_the_rows_is_a_folder_of_its_own(load: Load, tmp_path: Path) -> None:
    load()
    assert len(folders(tmp_path)) == 2, "a training split and a held-out one"
    load("objective=ipo", "objective.tau=0.5", "seed=3", "trainer.batch_size=4")
    assert len(folders(tmp_path)) == 2, "nothing of this changes token ids"
    (tmp_path / "rows.jsonl").rename(tmp_path / "moved.jsonl")
    load(f"data.path={tmp_path}/moved.jsonl")
    assert len(folders(tmp_path)) == 2, "the same content elsewhere"
    load(f"data.path={tmp_path}/moved.jsonl", "data.max_length=60")
    assert len(folders(tmp_path)) == 4
    (tmp_path / "moved.jsonl").write_text((tmp_path / "moved.jsonl").read_text().replace("yes", "yea"))
    load(f"data.path={tmp_path}/moved.jsonl")
    assert len(folders(tmp_path)) == 6


def test_damaged_rows_are_made_again(load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = load()
    for folder in folders(tmp_path):
        content = (folder / "rows.arrow").read_bytes()
        (folder / "rows.arrow").write_bytes(content[:200] + b"\0" + content[201:])
    again = load()
    assert list(again.train) == list(made.train)
    assert "the rows are tokenized again" in caplog.text
    assert len(list(tmp_path.glob("outputs/tokens/*.damaged"))) == 2


def test_rows_of_another_form_are_made_again(load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = load()
    for folder, content in zip(folders(tmp_path), ("[1]", "{}"), strict=True):
        (folder / "split.json").write_text(content)
        seal_folder(folder)
    assert list(load().train) == list(made.train)
    assert caplog.text.count("has another form than this version writes") == 2


def test_a_split_is_stored_whole_or_not_at_all(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: Any) -> None:
        raise DataError("stopped after the rows were written")

    with monkeypatch.context() as patch:
        patch.setattr(dataset, "look_at_tokens", stopped)
        with pytest.raises(DataError, match="stopped"):
            load()
    assert folders(tmp_path) == []
    assert len(load().train) == 36


def test_the_lab_stores_nothing(tmp_path: Path, hydra_conf: None) -> None:
    words: list[Any] = [f"output_root={tmp_path}/outputs", "model.parent=[]", "data.pair_count=20", "tracking=none"]
    start = load_initial_policy(plan(compose("train", ["experiment=lab_dpo", *words])))
    assert isinstance(load_rows(start).train, list)
    assert not (tmp_path / "outputs" / "tokens").exists()
