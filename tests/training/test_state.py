"""A run never resumes from a damaged training state: it starts anew, with the result of an undamaged run."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from alignlab.errors import DamagedError
from alignlab.integrity import read_sealed
from alignlab.runs.directory import RunDir, earlier_state
from alignlab.training.state import about, read_state, replace_state, updates_in, updates_of
from tests.lab_runs import FULL_PARENT, LAB
from tests.training.test_training import at_step

Run = Callable[..., Any]

SHORT = [*LAB, "trainer.max_steps=8", "peft=lora", "peft.dropout=0.1", FULL_PARENT]


def tensors(value: Any) -> list[torch.Tensor]:
    """Every tensor of a training state, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def equal(one: Any, two: Any) -> bool:
    """Whether two training states are the same, to the last bit."""
    alike = all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(two), strict=True))
    return alike and repr(one) == repr(two)


def save_vectorized_state(run: RunDir) -> None:
    """Save a training state as a vectorized fit saves it."""
    random = torch.Generator().manual_seed(0)
    moments = {name: torch.rand(64, generator=random) for name in ("exp_avg", "exp_avg_sq")}
    state = {"step": 5, "weights": torch.rand(64, generator=random), "moments": moments, "tokens": 7}
    torch.save({**state, "objective_state": None, **about(run)}, run.stacked_checkpoint)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir.of(tmp_path, "dpo-1")
    run.checkpoint.parent.mkdir(parents=True)
    run.metrics.write_text('{"train/global_step": 5, "train/loss": 0.5}\n')
    save_vectorized_state(run)
    return run


def test_a_flipped_bit_is_seen_wherever_it_is(run: RunDir) -> None:
    """With damage anywhere in the file, the state is refused or equals the saved state."""
    file = run.stacked_checkpoint
    good, expected = file.read_bytes(), read_state(file, run)
    refused = 0
    for place in range(0, len(good), 3):
        bad = bytearray(good)
        bad[place] ^= 1 << (place % 8)
        file.unlink()
        file.write_bytes(bytes(bad))
        try:
            found = read_state(file, run)
        except DamagedError:
            refused += 1
        else:
            assert equal(found, expected), f"byte {place}"
    assert refused > 0.5 * len(range(0, len(good), 3))


def damaged(kind: str, file: Path) -> None:
    """Damage a training state (or what belongs to it) in one of many ways."""
    good = file.read_bytes()
    file.unlink()
    if kind == "folder":
        (file / "inside").mkdir(parents=True)
        return
    if kind in ("other keys", "no state"):
        torch.save({"foo": 1} if kind == "other keys" else [1, 2], file)
        return
    if kind in ("another run's", "another model's"):
        file.write_bytes(good)
        state = torch.load(file, weights_only=True)
        state["run"] = "dpo-000000000000"
        if kind == "another model's":  # saved by an older version, which did not record the run of a state
            del state["run"], state["metrics"]
            state["state_dict"][next(iter(state["state_dict"]))] = torch.zeros(3)
        torch.save(state, file)
        return
    places = np.random.default_rng(len(kind)).integers(len(good), size=8)
    flipped = bytearray(good)
    for place in places:
        flipped[place] ^= 16
    middle = len(good) // 2
    zeroed = good[:middle] + bytes(512) + good[middle + 512 :]
    text = b"this is no archive" * 50
    file.write_bytes(
        {"flips": bytes(flipped), "zeroed": zeroed, "cut": good[:middle], "empty": b"", "text": text}[kind]
    )


KINDS = ["flips", "zeroed", "cut", "empty", "text", "folder", "other keys", "no state", "another run's"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_state_is_set_aside_and_logged(kind: str, run: RunDir) -> None:
    file = run.stacked_checkpoint
    assert updates_in(run, file) == (5, "")
    damaged(kind, file)
    updates, said = updates_in(run, file)
    assert updates == 0
    assert said.startswith(f"{file} ")
    assert said.endswith("and the run starts anew; it is kept as stacked.ckpt.damaged")
    assert not file.exists()
    assert file.with_name("stacked.ckpt.damaged").exists()
    assert updates_in(run, file) == (0, "")


def save_another_vectorized_state(run: RunDir, step: int) -> None:
    """Log another row, and save another training state, which replaces the last one."""
    with run.metrics.open("a") as rows:
        rows.write(f'{{"train/global_step": {step}, "train/loss": 0.4}}\n')
    state = torch.load(run.stacked_checkpoint, weights_only=True)
    scratch = run.stacked_checkpoint.with_suffix(".tmp")
    torch.save({**state, "step": step, **about(run)}, scratch)
    replace_state(scratch, run.stacked_checkpoint)


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_before_a_damaged_one_is_used(kind: str, run: RunDir) -> None:
    file = run.stacked_checkpoint
    before = file.read_bytes()
    save_another_vectorized_state(run, 7)
    assert updates_in(run, file) == (7, "")
    damaged(kind, file)
    updates, said = updates_in(run, file)
    assert updates == 5
    assert "and the run resumes from the state before it, after 5 updates; it is kept as stacked.ckpt.damaged" in said
    assert file.read_bytes() == before
    assert not earlier_state(file).exists()
    assert updates_in(run, file) == (5, "")


def test_two_states_are_kept_and_both_may_be_damaged(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a file can't have two names."""
    file = run.stacked_checkpoint
    save_another_vectorized_state(run, 6)
    monkeypatch.setattr(os, "link", lambda *files: (_ for _ in ()).throw(OSError("no links here")))
    save_another_vectorized_state(run, 7)
    assert updates_of(read_state(file, run)) == 7
    assert updates_of(read_state(earlier_state(file), run)) == 6
    assert len(list(file.parent.iterdir())) == 2
    damaged("cut", file)
    damaged("flips", earlier_state(file))
    updates, said = updates_in(run, file)
    assert updates == 0
    assert said.count("stacked.ckpt was cut off") == 1
    assert said.endswith("and the run starts anew; it is kept as stacked.earlier.ckpt.damaged")


def test_metrics_that_lost_rows_fit_the_state_before(run: RunDir) -> None:
    first = run.metrics.read_text()
    save_another_vectorized_state(run, 7)
    run.metrics.write_text(first)
    updates, said = updates_in(run, run.stacked_checkpoint)
    assert (updates, run.metrics.read_text()) == (5, first)
    assert "metrics.jsonl has changed since stacked.ckpt was saved, and the run resumes from the state" in said


def test_a_run_that_is_done_keeps_its_last_state_only(run: RunDir) -> None:
    save_another_vectorized_state(run, 7)
    run.end("interrupted")
    assert earlier_state(run.stacked_checkpoint).exists()
    run.end("done", keep="state")
    assert [file.name for file in run.stacked_checkpoint.parent.iterdir()] == ["stacked.ckpt"]
    run.end("done")
    assert not run.stacked_checkpoint.parent.exists(), "without trainer.keep=state it keeps none"


def test_one_damaged_state_does_not_replace_another(run: RunDir) -> None:
    for name in ("stacked.ckpt.damaged", "stacked.ckpt.damaged1"):
        save_vectorized_state(run)
        damaged("cut", run.stacked_checkpoint)
        assert updates_in(run, run.stacked_checkpoint)[1].endswith(f"kept as {name}")


def test_states_of_older_versions_are_read(run: RunDir) -> None:
    state = torch.load(run.stacked_checkpoint, weights_only=True)
    del state["run"], state["metrics"]
    torch.save(state, run.stacked_checkpoint)
    assert updates_in(run, run.stacked_checkpoint) == (5, "")


@pytest.mark.parametrize("content", ['{"train/global_step": 5, "train/loss": 0.7}\n', "", None])
def test_earlier_metrics_belong_to_a_state(content: str | None, run: RunDir) -> None:
    """A state is refused if the metrics logged before it have changed, because the summary of a run uses all rows."""
    with run.metrics.open("a") as rows:  # rows of updates after the state, which are repeated
        rows.write('{"train/global_step": 6, "train/loss": 0.4}\n')
    assert updates_in(run, run.stacked_checkpoint) == (5, "")
    run.metrics.unlink()
    if content is not None:
        run.metrics.write_text(content)
    updates, said = updates_in(run, run.stacked_checkpoint)
    assert updates == 0
    assert "metrics.jsonl has changed since stacked.ckpt was saved, and the run starts anew" in said


@pytest.mark.usefixtures("sft_parent")
def test_runs_end_where_undamaged_ones_do(alignlab: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each kind of damage: a run is interrupted, its state is damaged, and the same command runs again."""
    assert alignlab("train", *SHORT, "output_root=whole").code == 0
    with monkeypatch.context() as patched:
        at_step(patched, 4, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert alignlab("train", *SHORT).code == 130
    (name,) = (folder.name for folder in Path("outputs/runs").glob("dpo-*[0-9a-f]"))
    shutil.copytree("outputs", "stopped")
    whole = RunDir.of("whole", name)
    weights = load_file(whole.policy / "adapter_model.safetensors")
    summary = {k: v for k, v in whole.record()["summary"].items() if "second" not in k}
    for kind in ["none", "flips", "folder", "another model's"]:
        shutil.rmtree("outputs")
        shutil.copytree("stopped", "outputs")
        run = RunDir.of("outputs", name)
        assert updates_in(run, run.checkpoint) == (5, "")
        if kind != "none":
            damaged(kind, run.checkpoint)
        result = alignlab("train", *SHORT)
        assert result.code == 0, result.err
        record = run.record()
        assert record["status"] == "done"
        assert record["resumed_from"] == (5 if kind == "none" else 0)
        found = load_file(run.policy / "adapter_model.safetensors")
        assert all(torch.equal(found[key], weights[key]) for key in weights), kind
        assert {k: v for k, v in record["summary"].items() if "second" not in k} == summary
        if kind != "none":
            (said,) = record["damaged"]
            assert "and the run starts anew; it is kept as last.ckpt.damaged" in said
            assert said in result.err
            assert said in run.log.read_text()
            assert run.checkpoint.with_name("last.ckpt.damaged").exists()
    assert read_sealed(run.record_file)["attempt"] == 3, "one attempt found the damage while it loaded the state"


@pytest.mark.usefixtures("sft_parent")
def test_a_damaged_state_of_a_vectorized_run(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The point with the damaged state starts anew, and the other point resumes."""
    from alignlab.vectorized.module import VectorizedModule

    command = ["train", *LAB, "trainer.max_steps=6", "-m", "objective.beta=0.1,0.3", "launcher=vectorized"]
    assert alignlab(*command, "output_root=whole").code == 0
    train = VectorizedModule.training_step

    def stopping(module: VectorizedModule, *args: Any) -> None:
        if module.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        train(module, *args)

    with monkeypatch.context() as patched:
        patched.setattr(VectorizedModule, "training_step", stopping)
        assert alignlab(*command).code == 130
    runs = [RunDir(folder) for folder in sorted(Path("outputs/runs").glob("dpo-*[0-9a-f]"))]
    damaged("flips", runs[0].stacked_checkpoint)
    result = alignlab(*command)
    assert result.code == 0, result.err
    assert [run.record()["resumed_from"] for run in runs] == [0, 4]
    assert len(runs[0].record()["damaged"]) == 1
    assert "damaged" not in runs[1].record()
    for run in runs:
        policies = [load_file(Path(root, "runs", run.id, "policy/model.safetensors")) for root in ("whole", "outputs")]
        for key in policies[0]:
            torch.testing.assert_close(policies[1][key], policies[0][key], atol=2e-5, rtol=0)
