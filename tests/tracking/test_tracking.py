"""Metrics on disk and in W&B's offline files, and the table of metric names."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from alignlab.tracking.metrics import ALL, check_known
from alignlab.tracking.sinks.base import RunIdentity
from alignlab.tracking.sinks.jsonl import JsonlSink, read_rows
from alignlab.tracking.sinks.none import NoTracking
from alignlab.tracking.sinks.wandb import Wandb

# Metrics that TRL users look for in W&B (TRL 1.x, DPOTrainer). They have the same names here.
TRL_DPO = (
    "loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
    "logps/chosen", "logps/rejected",
)  # fmt: skip


def test_names_of_trl_are_kept() -> None:
    for split in ("train", "eval"):
        check_known([f"{split}/{name}" for name in TRL_DPO])
    check_known(["train/learning_rate", "train/grad_norm", "train/epoch", "train/num_tokens", "train/global_step"])


def test_every_name_is_explained_and_no_other_is_logged() -> None:
    assert len(ALL) > 40
    assert all(len(text) > 10 for text in ALL.values())
    with pytest.raises(KeyError, match="train/looks"):
        check_known(["train/loss", "train/looks"])


def test_names_with_a_judge_in_them() -> None:
    known = ["score/gold/mean", "score/gold/se", "winrate/llm", "winrate/llm/ci_low", "kl_ref/token_k3/se"]
    check_known([f"eval/{name}" for name in known])
    wrong = ["winrate", "winrate/llm/mean", "winrate/llm/se", "score/gold", "kl_ref/k4", "samples/repetition/se"]
    for name in [*(f"eval/{name}" for name in wrong), "train/winrate/llm"]:
        with pytest.raises(KeyError, match=name):
            check_known([name])


def rows(*steps: int) -> list[dict[str, float]]:
    return [{"train/global_step": step, "train/loss": 1.0 / step} for step in steps]


def test_rows_are_on_disk_at_once(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "metrics.jsonl", resume_at=0)
    for row in rows(1, 2):
        sink.log(row)
    assert read_rows(tmp_path / "metrics.jsonl") == rows(1, 2)
    sink.finish({}, failed=False)


def test_a_resumed_run_drops_rows_that_it_does_again(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(1, 2, 3)) + '{"train/global_step": 4, "tra')
    assert read_rows(file) == rows(1, 2, 3)
    sink = JsonlSink(file, resume_at=2)
    sink.log(rows(3)[0])
    sink.finish({}, failed=False)
    assert read_rows(file) == rows(1, 2, 3)
    JsonlSink(file, resume_at=0).finish({}, failed=False)
    assert read_rows(file) == []


def log_records(content: bytes) -> Iterator[bytes]:
    """Records of a `.wandb` file: LevelDB's log format (32 KiB blocks, 7-byte record headers) after a 7-byte header."""
    block, place, parts = 32 * 1024, 7, b""
    while place + 7 <= len(content):
        if block - place % block < 7:
            place += block - place % block
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


def test_wandb_offline_holds_names_values_group_and_config(tmp_path: Path) -> None:
    from wandb.proto import wandb_internal_pb2

    config = {"objective": {"beta": 0.1}}
    run = RunIdentity(id="dpo-1", directory=tmp_path, group="sweep-1", job_type="dpo", config=config)
    sink = Wandb(mode="offline").open(run)
    for row in rows(1, 2, 3):
        sink.log(row)
    sink.finish({"exact/kl": 0.5}, failed=True)
    deadline = time.monotonic() + 30
    records: list[Any] = []
    while not any(r.WhichOneof("record_type") == "exit" for r in records):  # W&B's service writes with a delay
        assert time.monotonic() < deadline, "no end of the run in W&B's file"
        records = []
        for file in tmp_path.glob("wandb/offline-run-*/*.wandb"):
            for data in log_records(file.read_bytes()):
                record = wandb_internal_pb2.Record()
                record.ParseFromString(data)
                records.append(record)
        time.sleep(0.1)
    (info,) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert (info.run_id, info.run_group, info.job_type) == ("dpo-1", "sweep-1", "dpo")
    assert {u.key: json.loads(u.value_json) for u in info.config.update}["objective"] == {"beta": 0.1}
    history = [
        {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in r.history.item}
        for r in records
        if r.WhichOneof("record_type") == "history"
    ]
    assert [row["train/loss"] for row in history] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert [row["train/global_step"] for row in history] == [1, 2, 3]
    (end,) = [r.exit for r in records if r.WhichOneof("record_type") == "exit"]
    assert end.exit_code == 1
    (file,) = tmp_path.glob("wandb/offline-run-*/files/requirements.txt")
    assert f"torch=={version('torch')}" in file.read_text().splitlines()
    files = [r.files for r in records if r.WhichOneof("record_type") == "files"]
    assert "requirements.txt" in [found.path for one in files for found in one.files]


def test_wandb_disabled_by_its_own_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    sink = Wandb().open(RunIdentity(id="dpo-1", directory=tmp_path, group=None, job_type="dpo"))
    sink.log({"train/loss": 1.0})
    sink.finish({}, failed=False)


def test_without_a_tracker_nothing_is_written(tmp_path: Path) -> None:
    sink = NoTracking().open(RunIdentity(id="x", directory=tmp_path, group=None, job_type="dpo"))
    sink.log({"train/loss": 1.0})
    sink.finish({}, failed=False)
    assert list(tmp_path.iterdir()) == []
