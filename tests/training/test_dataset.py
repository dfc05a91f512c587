"""A run trains only on the rows that its id and its record stand for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from hydra.core.global_hydra import GlobalHydra

from alignlab.config.composer import Composer
from alignlab.config.plan import plan
from alignlab.config.points import plan_points
from alignlab.data.sources.pairs import Pairs
from alignlab.errors import DataError
from alignlab.training import dataset
from alignlab.training.dataset import load_rows, load_starts
from alignlab.training.setup import load_initial_policy

Run = Callable[..., Any]

SMALL = [
    "model=tiny", "model.hidden_size=8", "model.layers=1", "model.heads=1", "model.intermediate_size=8", "data=pairs",
    "evaluation=off",
    "trainer.max_steps=1", "trainer.batch_size=2", "data.max_length=64", "data.max_prompt_length=32", "tracking=none",
]  # fmt: skip


def write(file: Path, *prompts: str, answer: str = "good") -> None:
    """A file of pairs with these prompts, always with the same modification time."""
    rows = ({"prompt": prompt, "chosen": f"{answer} {i}", "rejected": "bad"} for i, prompt in enumerate(prompts))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.utime(file, (10**9, 10**9))


def test_prompts_shared_by_held_out_rows_are_reported(alignlab: Run, tmp_path: Path) -> None:
    """A user's held-out file may share prompts with the training rows. Rows that alignlab holds out never do."""
    write(tmp_path / "train.jsonl", *"abcdefghij")
    write(tmp_path / "eval.jsonl", "a", " b\n", "x", "a")
    shared = []
    for more in ([], ["data.eval_path=eval.jsonl"]):
        result = alignlab("train", *SMALL, "data.path=train.jsonl", *more)
        assert result.code == 0, result.err
        told = "3 of 4 held-out rows (75.0%) have a prompt that training uses too" in result.err
        assert told == bool(more)
    for file in sorted(tmp_path.glob("outputs/runs/*/run.json"), key=lambda file: file.stat().st_mtime):
        record = json.loads(file.read_text())["data"]["eval"]
        shared.append((record["prompts_in_train"], record["rows"]))
    assert shared == [(0, 1), (3, 4)]


def test_a_file_that_changes_after_the_plan_is_not_trained_on(tmp_path: Path, hydra_conf: None) -> None:
    """If the planned rows are stored, they are trained on; otherwise the run is refused."""
    file = tmp_path / "rows.jsonl"
    write(file, "a", "b", "c")
    words = [*SMALL, f"data.path={file}", f"output_root={tmp_path}/outputs"]
    start = load_initial_policy(plan(compose("train", words)))
    planned = load_rows(start)
    assert len(planned.train) == 2
    write(file, "a", "b", "c", answer="evil")
    dataset._kept.clear()  # as in another process
    assert load_rows(start).record == planned.record
    other = load_initial_policy(plan(compose("train", words)))
    write(file, "a", "b", "c", answer="worse")
    with pytest.raises(
        DataError, match=r"rows\.jsonl: changed since this command began\n  type: the same command again"
    ):
        load_rows(other)


def test_a_second_start_digests_the_file_once(
    tmp_path: Path, hydra_conf: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, asked = tmp_path / "rows.jsonl", []
    write(file, "j", "k", "l")
    words = [*SMALL, f"data.path={file}", f"output_root={tmp_path}/outputs"]
    first = load_rows(load_initial_policy(plan(compose("train", words)))).record
    dataset._kept.clear()
    fingerprint = Pairs.fingerprint

    def counted(self: Pairs) -> str:
        asked.append(self.path)
        return fingerprint(self)

    monkeypatch.setattr(Pairs, "fingerprint", counted)
    second = load_rows(load_initial_policy(plan(compose("train", words)))).record
    assert asked == [str(file)]
    assert second == first
    assert second["fingerprint"] == Pairs(path=str(file)).fingerprint()


def test_errors_in_the_data_stop_a_run_before_weights_are_loaded(
    tmp_path: Path, hydra_conf: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.jsonl"
    write(file, "a", "b", "c", answer="a long answer")
    words = [*SMALL, "model.max_positions=8", f"data.path={file}", f"output_root={tmp_path}/outputs"]
    monkeypatch.setattr(dataset, "load_initial_policy", lambda plan: pytest.fail("weights were loaded"))
    with pytest.raises(DataError, match=r"the model has 8 positions\n  type: data.max_length=8"):
        load_starts([plan(compose("train", words))])


def test_rows_are_the_same_with_and_without_weights(tmp_path: Path, hydra_conf: None) -> None:
    file = tmp_path / "rows.jsonl"
    write(file, "g", "h", "i")
    planned = plan(compose("train", [*SMALL, f"data.path={file}", f"output_root={tmp_path}/outputs"]))
    ((start, rows),) = load_starts([planned])
    assert start.weights
    assert rows.record == load_rows(start).record
    assert len(list(tmp_path.glob("outputs/tokens/*/rows.arrow"))) == 2, "two splits, each tokenized once"


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, hydra_conf: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.jsonl"
    write(file, "d", "e", "f")  # rows that no other test has read
    start = load_initial_policy(
        plan(compose("train", [*SMALL, f"data.path={file}", f"output_root={tmp_path}/outputs"]))
    )
    pairs = Pairs.pairs

    def changing(self: Pairs, *arguments: Any) -> Any:
        write(file, "a", "b", "c", answer="evil")
        return pairs(self, *arguments)

    monkeypatch.setattr(Pairs, "pairs", changing)
    with pytest.raises(DataError, match="changed since this command began"):
        load_rows(start)


def test_a_file_is_digested_once_for_all_points(
    tmp_path: Path, hydra_conf: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next sweep reads the file again, even if path, size and time are the same, and it makes another run."""
    file, asked = tmp_path / "rows.jsonl", []
    fingerprint = Pairs.fingerprint

    def counted(self: Pairs) -> str:
        asked.append(self.path)
        return fingerprint(self)

    monkeypatch.setattr(Pairs, "fingerprint", counted)
    jobs = [[*SMALL, f"data.path={file}", f"seed={seed}"] for seed in range(1, 21)]
    composer = Composer(GlobalHydra.instance().config_loader(), "train")
    write(file, "a", "b", answer="good")
    before = {point.id for point in plan_points(composer, jobs)}
    write(file, "a", "b", answer="evil")
    after = {point.id for point in plan_points(composer, jobs)}
    assert len(asked) == 2
    assert (len(before), len(after), len(before & after)) == (20, 20, 0)


def test_held_out_rows_of_a_changed_file_are_not_evaluated(alignlab: Run, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", *"abcdefghij")
    assert alignlab("train", *SMALL, "data.path=rows.jsonl").code == 0
    write(tmp_path / "rows.jsonl", *"abcdefghij", answer="evil")
    found = alignlab("evaluate", "run=dpo", "evaluation.max_new_tokens=2")
    assert found.code == 2
    assert "data.path=rows.jsonl: not what dpo-" in found.err
    assert "type: evaluation.questions=" in found.err
