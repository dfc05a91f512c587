"""Metrics on disk and in W&B's offline files, and the table of metric names."""

from __future__ import annotations

import json
import logging
import socket
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignlab.tracking.metrics import ALL, check_known
from alignlab.tracking.sinks.base import RunIdentity
from alignlab.tracking.sinks.csv import Csv
from alignlab.tracking.sinks.jsonl import JsonlSink, read_rows
from alignlab.tracking.sinks.wandb import Wandb
from tests.tracking.tensorboard_files import events_of
from tests.tracking.wandb_files import history_of, log_records, offline_records, summary_of

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
    sink.finish({}, ending="done")


def test_a_resumed_run_drops_rows_that_it_does_again(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(1, 2, 3)) + '{"train/global_step": 4, "tra')
    assert read_rows(file) == rows(1, 2, 3)
    sink = JsonlSink(file, resume_at=2)
    sink.log(rows(3)[0])
    sink.finish({}, ending="done")
    assert read_rows(file) == rows(1, 2, 3)
    JsonlSink(file, resume_at=0).finish({}, ending="done")
    assert read_rows(file) == []


def test_wandb_offline_holds_names_values_group_and_config(tmp_path: Path) -> None:
    from wandb.proto import wandb_internal_pb2

    config = {"objective": {"beta": 0.1}}
    run = RunIdentity(id="dpo-1", directory=tmp_path, group="sweep-1", job_type="dpo", config=config)
    sink = Wandb(mode="offline").open(run)
    for row in rows(1, 2, 3):
        sink.log(row)
    sink.finish({"exact/kl": 0.5}, ending="failed")
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
    history = history_of(records)
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
    sink.finish({}, ending="done")


def test_a_key_without_a_network_is_offline_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Prompts that an online run would not send are not written for a later upload either."""
    import wandb

    monkeypatch.delenv("WANDB_MODE", raising=False)
    closed = SimpleNamespace(settings=SimpleNamespace(base_url="http://127.0.0.1:9"))
    monkeypatch.setattr(wandb, "setup", lambda: closed)
    monkeypatch.setattr("alignlab.tracking.sinks.wandb.has_key", lambda: True)
    began = time.monotonic()
    with caplog.at_level(logging.INFO):
        sink = Wandb().open(RunIdentity(id="dpo-1", directory=tmp_path, group=None, job_type="dpo"))
    assert time.monotonic() - began < 60
    sink.log(rows(1)[0])
    sink.table("completions", [{"step": 1, "prompt": "secret"}])
    sink.finish({}, ending="done")
    assert "http://127.0.0.1:9 can't be reached, so this run is written offline" in caplog.text
    assert sink.anew
    records = offline_records(tmp_path)
    assert len(history_of(records)) == 1
    assert not any("completions" in row for row in history_of(records))


def test_a_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for a connection, nor for the look-up of its name."""
    from alignlab.tracking import reachable

    monkeypatch.setattr(reachable, "_SECONDS", 0.05)

    def silent(*address: Any, **how: Any) -> None:
        time.sleep(6)
        raise TimeoutError

    monkeypatch.setattr(reachable.socket, "create_connection", silent)
    began = time.monotonic()
    assert not reachable.is_reachable("https://nowhere.example:1")
    assert time.monotonic() - began < 5


def test_a_server_is_reached_directly_or_by_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    from alignlab.tracking import reachable

    monkeypatch.setattr(reachable, "getproxies", dict)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reachable.is_reachable(f"http://127.0.0.1:{port}")
        monkeypatch.setattr(reachable, "getproxies", lambda: {"https": f"http://127.0.0.1:{port}"})
        monkeypatch.setattr(reachable, "proxy_bypass", lambda host: False)
        assert reachable.is_reachable("https://api.example")
    monkeypatch.setattr(reachable, "getproxies", dict)
    assert not reachable.is_reachable("http://127.0.0.1:9/other")


def test_an_interrupted_offline_run_is_one_whole_curve_after_it_resumed(tmp_path: Path) -> None:
    """The second attempt resumes at step 2. Its file has all steps once, the tables, and replaces the first file."""
    run = RunIdentity(tmp_path.name, tmp_path, "s", "dpo", name="dpo beta=0.1 seed=1", tags=["dpo", "pairs"])
    answers = [{"step": 1, "prompt": "Hi", "completion": "Ho"}]
    for resume_at, steps, ending in ((0, (1, 2, 3), "interrupted"), (2, (3, 4), "done")):
        sinks = [JsonlSink(tmp_path / "metrics.jsonl", resume_at=resume_at)]
        sinks += [Wandb(mode="offline", tags=["mine"]).open(run)]  # type: ignore[list-item]
        for sink in sinks:
            for row in rows(*steps):
                sink.log(row)
            if not resume_at:
                sink.table("completions", answers)
            sink.finish({"train/loss": 0.25, "exact/kl": 0.5}, ending=ending)
        records = offline_records(tmp_path)
        (end,) = [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"]
        assert end == {"interrupted": 255, "done": 0}[ending]
    history = history_of(records)
    assert [row["train/loss"] for row in history if "train/loss" in row] == [1.0, 0.5, pytest.approx(1 / 3), 0.25]
    assert sum(any(name.startswith("completions") for name in row) for row in history) == 1
    (info,) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert (info.display_name, list(info.tags)) == ("dpo beta=0.1 seed=1", ["mine", "dpo", "pairs"])
    summary = summary_of(records)
    assert summary["train/loss"] == {"min": 0.25, "last": 0.25}, "the extreme beside the last value"
    assert summary["exact/kl"] == 0.5
    assert summary["job/status"] == "done"


def test_command_line_and_host_are_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["alignlab", "train", "judge.llm.base_url=https://me:s3cret@host"])
    sink = Wandb(mode="offline").open(RunIdentity(tmp_path.name, tmp_path, None, "dpo"))
    sink.finish({}, ending="done")
    records = offline_records(tmp_path)
    (info,) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert info.host == ""
    assert not any(r.WhichOneof("record_type") == "environment" for r in records), "user, host, command line"
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and file.suffix == ".wandb")
    assert b"s3cret" not in written


def test_samples_are_left_out_on_request(tmp_path: Path) -> None:
    run = RunIdentity(tmp_path.name, tmp_path, None, "dpo")
    sink = Wandb(mode="offline", samples=False).open(run)
    sink.table("completions", [{"step": 1, "prompt": "confidential"}])
    sink.finish({}, ending="done")
    offline_records(tmp_path)
    assert not any(b"confidential" in f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())


def test_csv_has_all_columns_and_empty_cells(tmp_path: Path) -> None:
    file = JsonlSink(tmp_path / "metrics.jsonl", resume_at=0)
    sink = Csv().open(RunIdentity("x", tmp_path, None, "dpo"))
    for row in ({"train/global_step": 1, "train/loss": 0.5}, {"train/global_step": 1, "eval/loss": 0.25}):
        file.log(row)
    sink.finish({}, ending="done")
    text = (tmp_path / "metrics.csv").read_text()
    assert text.splitlines() == ["train/global_step,train/loss,eval/loss", "1,0.5,", "1,,0.25"]


def test_tensorboard_holds_the_curve_of_all_attempts(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason='needs pip install "alignlab[sinks]"')
    from alignlab.tracking.sinks.tensorboard import TensorBoard

    run = RunIdentity("x", tmp_path, None, "dpo", name="dpo beta=0.1 seed=1")
    for resume_at, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        file, sink = JsonlSink(tmp_path / "metrics.jsonl", resume_at=resume_at), TensorBoard().open(run)
        for row in rows(*steps):
            file.log(row)
            sink.log(row)
        sink.table("completions", [{"step": 1, "completion": "<script>"}])
        sink.finish({"exact/kl": 0.5}, ending="done")
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events_of(tmp_path):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    assert found["train/loss"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.25)]
    assert found["summary/exact/kl"] == [(4, 0.5)]
